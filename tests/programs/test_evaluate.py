"""evaluate.py: a run's folder, splits by name, kept evaluations, and its figures as text and as JSON."""

import json
import shutil

import pytest
import torch
from small_runs import config_of

from mlc_ext.detectors import evaluate
from mlc_ext.detectors.data.generated.dataset import generate
from mlc_ext.detectors.engine.trainer import Trainer
from mlc_ext.detectors.runs.load import load_for_evaluation


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """data/ with the splits train, val and test, and two runs on it: fcos/ and rpn/."""
    folder = tmp_path_factory.mktemp("evaluate")
    data = generate(folder / "data", num_train=6, num_val=3, image_size=64)
    shutil.copytree(data / "train", data / "test")
    shutil.copy(data / "annotations" / "instances_train.json", data / "annotations" / "instances_test.json")
    for name, preset in (("fcos", "fcos_minus_r50_mlc"), ("rpn", "rpn_r50_mlc")):
        Trainer(config_of(preset, folder / name, 1, data__data=str(data)), progress=False).run()
    return folder


@pytest.fixture
def program(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)

    def run(*arguments):
        code = evaluate.main([*map(str, arguments), "--device", "cpu"])
        return code, *capsys.readouterr()

    return run


def figures(out):
    """What is printed, without the first line, which names the data, and the ending."""
    return [line for line in out.splitlines()[1:] if not line.startswith(("kept", "next", "figures", "evaluated"))]


def test_a_folder_is_its_newest_checkpoint_and_the_second_time_is_read(program, folder):
    code, first, _ = program("fcos/checkpoint.pt")
    assert code == 0 and "evaluated before" not in first
    code, second, _ = program("fcos")
    assert code == 0 and second.splitlines()[1].startswith("evaluated before, detections read from fcos/evaluations/")
    assert figures(second) == figures(first)
    code, third, _ = program("fcos", "--again")
    assert code == 0 and "evaluated before" not in third and figures(third) == figures(first)


def test_splits_by_name(program, folder):
    found = {}
    for split in ("val", "train", "test"):
        code, out, _ = program("fcos", "--split", split)
        assert code == 0
        assert out.splitlines()[0] == f"{split} set: {folder}/data/annotations/instances_{split}.json"
        found[split] = figures(out)
    assert found["test"] == found["train"] != found["val"]


def test_a_split_of_other_data(program, folder):
    _, expected, _ = program("fcos", "--split", "test")
    shutil.copytree(folder / "data", folder / "moved", dirs_exist_ok=True)
    code, out, _ = program("fcos", "--split", "test", "--data", "moved")
    assert code == 0 and out.splitlines()[0] == f"test set: {folder}/moved/annotations/instances_test.json"
    assert figures(out) == figures(expected)


def test_limits_of_the_run_are_for_its_own_images(folder):
    state = torch.load(folder / "fcos" / "checkpoint.pt", weights_only=True)
    state["config"]["data"] |= {"limit_train": 2, "limit_val": 1}
    torch.save(state, folder / "limited.pt")

    def images(*arguments, **options):
        return len(load_for_evaluation(folder / "limited.pt", *arguments, device="cpu", **options).dataset)

    data = str(folder / "data")
    assert [images(), images(split="val"), images(split="train"), images(split="test")] == [1, 1, 2, 6]
    assert [images(data), images(data, split="train"), images(data, split="test")] == [3, 6, 6]
    assert images(data, split="train", settings=["data.limit_val=4"]) == 4


def test_json(program, folder):
    code, out, _ = program("fcos", "--json", "deep/figures.json", "--score-threshold", "0.1")
    content = json.loads((folder / "deep" / "figures.json").read_text())
    assert code == 0 and "figures: deep/figures.json" in out and "score > 0.1, IoU >= 0.5" in out
    assert content["annotations"] == f"{folder}/data/annotations/instances_val.json"
    last = json.loads((folder / "fcos" / "metrics.json").read_text())
    assert content["iteration"] == last["iteration"]
    assert content["metrics"]["AP50"] == pytest.approx(last["metrics"]["AP50"])
    assert content["errors"]["ap50"] == pytest.approx(content["metrics"]["AP50"])
    for each in content["classes"]:
        assert any(line.split()[:2] == [each["name"], str(each["objects"])] for line in out.splitlines())


def test_proposals_have_no_classes(program, folder):
    code, out, _ = program("rpn", "--json", "rpn.json")
    content = json.loads((folder / "rpn.json").read_text())
    assert code == 0 and "AR@1000" in out and "confusion" not in out
    assert sorted(content) == ["annotations", "iteration", "metrics"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "no checkpoint nothing"),
        (["data"], "no checkpoint in data"),
        (["fcos", "--split", "minival"], "no split 'minival' in "),
        (["fcos", "--split", "../val"], "--split must be the name of a split"),
        (["fcos", "--score-threshold", "nan"], "--score-threshold must be in 0..1, got nan"),
        (["fcos", "--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["fcos", "--score-threshold", "2"], "--score-threshold must be in 0..1, got 2"),
        (["fcos", "--json", "fcos"], "Is a directory: 'fcos'"),
        (["fcos", "--json", "x.json", "--results", "./x.json"], "--results and --json are the same file, x.json"),
        (["fcos", "--json", "fcos/checkpoint.pt"], "--json and the checkpoint are the same file, fcos/checkpoint.pt"),
        (["fcos", "--results", "data/annotations/instances_val.json"], "--results and the annotations are the same"),
        (
            ["fcos", "--split", "test", "--set", "data.val_images=data/val"],
            "--split test and --set data.val_images=data/val choose different images: leave one out",
        ),
        (["fcos", "--split", "train", "--set", "data.val_is_train=false"], "choose different images"),
        (["fcos", "--split", "test", "--data", "nowhere"], "no split 'test' in nowhere, which does not exist"),
    ],
)
def test_faults_are_one_line(program, arguments, said):
    code, out, error = program(*arguments)
    assert code == 2 and out == "" and error.count("\n") == 1
    assert error.startswith("evaluate.py: ") and said in error
