"""Classes are compared by name, in one place: training with validation, evaluation, a resumed run, a report."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from coco_files import box, write_coco

from mlc_ext.detectors import evaluate
from mlc_ext.detectors.config.settings import Config
from mlc_ext.detectors.data.coco.categories import match_categories
from mlc_ext.detectors.data.coco.dataset import CocoDetection
from mlc_ext.detectors.data.coco.trained import label_as_trained, require_trained


@pytest.mark.parametrize(
    ("reference", "found", "expected"),
    [
        ({1: "cat", 2: "dog"}, {1: "cat", 2: "dog"}, [1, 2]),
        ({1: "cat", 2: "dog"}, {1: "dog", 2: "cat"}, [2, 1]),
        ({1: "cat", 2: "dog", 3: "owl"}, {0: "owl", 7: "cat", 9: "dog"}, [7, 9, 0]),
        ({1: "Cat", 2: "caf\u00e9"}, {5: "cafe\u0301", 8: " cat"}, [8, 5]),
        ({1: "a", 2: "A"}, {1: "A", 2: "a"}, [2, 1]),
        ({1: "1", 2: "2"}, {1: "2", 2: "1"}, [2, 1]),  # names that are digits, other than the ids
        ({1: "cat", 2: "dog"}, {1: "1", 2: "2"}, [1, 2]),  # without names: by id
        ({3: "3", 9: "9"}, {3: "cat", 9: "dog"}, [3, 9]),
        ({1: "cat", 2: "cat"}, {1: "cat", 2: "cat"}, [1, 2]),
    ],
)
def test_categories_are_matched_by_name(reference, found, expected):
    assert match_categories(reference, found) == expected


@pytest.mark.parametrize(
    ("reference", "found", "message"),
    [
        ({1: "cat", 2: "dog"}, {1: "cat", 2: "owl"}, r"^only in b: 'owl' \(id 2\); only in a: 'dog' \(id 2\)$"),
        ({1: "cat", 2: "dog"}, {1: "cat"}, r"^only in a: 'dog' \(id 2\)$"),
        ({1: "cat"}, {1: "cat", 2: "dog"}, r"^only in b: 'dog' \(id 2\)$"),
        ({1: "cat", 2: "cat"}, {2: "cat", 3: "cat"}, "the same names, some of them more than once"),
        ({1: "cat", 2: "cat", 3: "dog"}, {1: "cat", 2: "dog", 3: "cat"}, "the same names, some of them more than once"),
        ({1: "cat", 2: "dog"}, {0: "0", 1: "1"}, "only in b: '0'"),  # without names, and other ids
        ({k: f"a{k}" for k in range(9)}, {k: f"b{k}" for k in range(9)}, "'b2' .id 2., ...; only in a: .*'a2'"),
    ],
)
def test_other_categories_are_refused_by_name(reference, found, message):
    with pytest.raises(ValueError, match=message):
        match_categories(reference, found, ("a", "b"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [(0, "0"), (7, "7"), (1.5, "1.5"), (False, "false"), (["cat"], '["cat"]'), ({"en": "Käfer"}, '{"en": "Käfer"}'),
     ("no", "no"), ("\ud800", "\\ud800")],
)  # fmt: skip
def test_a_name_of_any_type_is_used_as_text(tmp_path, name, expected):
    dataset = CocoDetection(*write_coco(tmp_path, [], categories=[{"id": 3, "name": name}, {"id": 9}]))
    assert dataset.category_names == [expected, "9"]
    assert dataset.findings.noted["categories without a name, called by their id"] == 1
    assert dataset.findings.noted["categories whose name is not text"] == (not isinstance(name, str))


def test_labels_follow_another_set(tmp_path):
    """Boxes keep their class, whatever its id is."""
    annotations = [box(1, category_id=1, id=1), box(2, category_id=2, id=2), box(3, category_id=3, id=3)]
    names = {1: "cat", 2: "dog", 3: "owl"}
    paths = write_coco(tmp_path, annotations, categories=[{"id": k, "name": v} for k, v in names.items()])
    dataset = CocoDetection(*paths)
    dataset.label_as({5: "owl", 2: "cat", 8: "dog"}, "train.json")
    assert [dataset.category_names[int(dataset[k][1]["labels"]) - 1] for k in range(3)] == list(names.values())
    assert dataset.category_names == ["owl", "cat", "dog"] and dataset.label_to_category == {1: 3, 2: 1, 3: 2}
    assert [a["category_id"] for a in dataset.ground_truth()["annotations"]] == [1, 2, 3]
    assert dataset.findings.relabeled == [
        "category ids are not those of train.json, matched by name: 'owl' has id 3 instead of 5; 'cat' has id 1 "
        "instead of 2; 'dog' has id 2 instead of 8"
    ]


def test_checkpoints_without_category_ids_are_compared_by_count(tmp_path):
    dataset, state = CocoDetection(*write_coco(tmp_path, [box(1)])), {"config": Config().to_dict()}
    for compare in (label_as_trained, require_trained):
        compare(dataset, state | {"num_classes": 3}, tmp_path / "a.pt")
        with pytest.raises(ValueError, match="trained on 2"):
            compare(dataset, state | {"num_classes": 2}, tmp_path / "a.pt")


def exchange_ids(path, first=3, second=7) -> None:
    """The same data with the ids of two categories exchanged."""
    content, other = json.loads(path.read_text()), {first: second, second: first}
    for entries, key in ((content["categories"], "id"), (content["annotations"], "category_id")):
        for each in entries:
            each[key] = other.get(each[key], each[key])
    path.write_text(json.dumps(content))


def test_exchanged_ids_change_no_result(program, tmp_path, capsys):
    """In the validation set, in evaluate.py's JSON, and in a resumed run."""
    annotations = tmp_path / "data" / "annotations"
    code, _, error = program()
    assert code == 0 and "matched by name" not in error
    plain = json.loads((tmp_path / "run" / "metrics.json").read_text())["metrics"]
    shutil.copytree(tmp_path / "data", tmp_path / "other")
    exchange_ids(tmp_path / "other" / "annotations" / "instances_val.json")

    code, _, error = program("--data", "other", "--out", "second")
    assert code == 0 and error.count("matched by name: 'bird' has id 7 instead of 3; 'cat'") == 1
    assert json.loads((tmp_path / "second" / "metrics.json").read_text())["metrics"] == plain

    for data in ("data", "other"):
        results = tmp_path / f"{data}.json"
        assert evaluate.main(["run/checkpoint.pt", "--data", data, "--device", "cpu", "--results", str(results)]) == 0
    printed, errors = capsys.readouterr()
    assert "matched by name: 'bird' has id 7 instead of 3" in errors
    tables = [part.splitlines()[1:3] for part in printed.split("validation set: ")[1:]]  # the head and the figures
    assert len(tables) == 2 and tables[0] == tables[1] and "AP" in tables[0][0]
    first, second = (json.loads((tmp_path / f"{data}.json").read_text()) for data in ("data", "other"))
    swapped = [row | {"category_id": {3: 7, 7: 3}.get(row["category_id"], row["category_id"])} for row in second]
    assert first == swapped  # results are in the ids of the file that they belong to

    for split in ("train", "val"):
        exchange_ids(annotations / f"instances_{split}.json")
    code, _, error = program("--resume", "run/checkpoint.pt", "--out", "third")
    assert code == 2 and error.count("\n") == 1
    assert "was trained on other categories than" in error and "class 1 was 'bird' (id 3), is 'cat' (id 3)" in error


def test_evaluation_on_other_classes_is_refused(program, tmp_path, capsys):
    assert program()[0] == 0
    path = tmp_path / "data" / "annotations" / "instances_val.json"
    path.write_text(path.read_text().replace('"bird"', '"fish"'))
    assert evaluate.main(["run/checkpoint.pt", "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert f"only in {path}: 'fish' (id 3); only in run/checkpoint.pt's training data: 'bird' (id 3)" in error
    assert torch.load("run/checkpoint.pt", weights_only=True)["categories"] == ["bird", "cat", "dog"]


def figures(printed: str) -> str:
    """Without the name of the file that keeps the evaluation, which depends on the data."""
    return printed.partition("kept for the next time")[0]


def test_class_agnostic_detectors_take_any_classes(program, tmp_path, capsys):
    """An RPN is trained with, evaluated on and resumed on data whose classes have other names, or another number."""
    annotations = tmp_path / "data" / "annotations"
    path = annotations / "instances_val.json"
    path.write_text(path.read_text().replace('"bird"', '"fish"'))
    code, _, error = program(name="rpn_r50_mlc")
    assert code == 0 and error == ""
    assert evaluate.main(["run/checkpoint.pt", "--device", "cpu"]) == 0
    expected = figures(capsys.readouterr().out)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"categories": [*content["categories"], {"id": 99, "name": "owl"}]}))
    assert evaluate.main(["run/checkpoint.pt", "--device", "cpu"]) == 0
    assert figures(capsys.readouterr().out) == expected and "AR@100" in expected

    path = annotations / "instances_train.json"
    path.write_text(path.read_text().replace('"bird"', '"wolf"'))
    code, _, error = program("--resume", "run/checkpoint.pt", "--out", "second", name="rpn_r50_mlc")
    assert code == 0 and error == ""
