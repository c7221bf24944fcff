"""Mutated COCO documents: a summary or an error of one line, and the same boxes as pycocotools."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
from typing import Any

import numpy as np
import pytest
from coco_files import box, entry, noise
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from mlc_ext.detectors.data.coco.dataset import CocoDetection

ODD = [
    None, True, False, "", " ", "0", "1", "3", "no", "true", "1e3", "1.0", "null", "1.png", "2.PNG", "../1.png", "/etc",
    "C:\\a.png", "http://x/1.png", "a%20b", "\ud800", "é", "e\u0301", 0, -0.0, 1, 1.0, 2, 3, 3.0, 7, 1.5, -1, 1e-300,
    1e308, -1e308, 2**31, 2**53 + 1.0, 2**63, 10**30, float("nan"), float("inf"), [], {}, [[]], {"id": 1}, [1, 2, 3, 4],
    [0.1, 0.2, 0.3, 0.4], ["1", "2", "3", "4"], [1, 2, 3], [5, 5, 1e400, 2], {"counts": [1], "size": [30, 40]},
]  # fmt: skip
KEYS = ["id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore", "segmentation", "file_name", "width",
        "height", "name", "supercategory", "images", "annotations", "categories", "info", "score"]  # fmt: skip

numbers = st.one_of(st.integers(-3, 50), st.floats(-5, 60, width=32), st.sampled_from([40, 30, 0, 0.5]))
boxes = st.tuples(numbers, numbers, numbers, numbers).map(list)
annotations = st.builds(
    lambda image, category, bbox, crowd, key: box(image, bbox, category, iscrowd=crowd, id=key),
    st.integers(1, 4), st.sampled_from([3, 7, 90, 3.0]), boxes, st.sampled_from([0, 1, False, True]), st.integers(1, 9),
)  # fmt: skip
documents = st.builds(
    lambda rows, order, names: {
        "images": [entry(k) for k in order],
        "annotations": rows,
        "categories": [{"id": key, "name": name} for key, name in zip((7, 3, 90), names, strict=True)],
    },
    st.lists(annotations, max_size=6),
    st.permutations([1, 2, 3]),
    st.permutations(["cat", "bird", "dog"]),
)


@st.composite
def grown(draw) -> Any:
    """A valid document with up to four values changed, removed, repeated, moved or added, anywhere."""
    document = draw(documents)
    for _ in range(draw(st.integers(0, 4))):
        places = [(None, None), *_places(document)]
        where, key = draw(st.sampled_from(places))
        change = draw(st.sampled_from(["odd", "odd", "remove", "repeat", "add", "move"]))
        if where is None:
            document = copy.deepcopy(draw(st.sampled_from(ODD))) if change == "move" else document
        elif change == "odd":
            where[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
        elif change == "remove":
            del where[key]
        elif change == "repeat" and isinstance(where, list):
            where.insert(draw(st.integers(0, len(where))), copy.deepcopy(where[key]))
        elif change == "add" and isinstance(where, dict):
            where[draw(st.sampled_from(KEYS))] = copy.deepcopy(draw(st.sampled_from(ODD)))
        elif change == "move":
            other, place = draw(st.sampled_from(places[1:]))
            other[place], where[key] = copy.deepcopy(where[key]), copy.deepcopy(other[place])
        if not isinstance(document, dict):
            break
    return document


def _places(value: Any) -> list[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, each in list(items) for place in [(value, key), *_places(each)]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz")
    for k in (1, 2, 3):
        noise(seed=k).save(path / f"{k}.png")
    return path


def by_pycocotools(path, dataset: CocoDetection) -> list[list[list[float]]] | None:
    """[label, crowd, x1, y1, x2, y2] of each image's annotations that training can use, sorted; None if pycocotools
    cannot read the file."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            reference = COCO(str(path))
            found = []
            for index, image_id in enumerate(dataset.image_ids):
                height, width = dataset.image_size(index)
                rows = []
                for row in reference.loadAnns(reference.getAnnIds(imgIds=[image_id])):
                    label = dataset.classes.category_to_label.get(row["category_id"])
                    # to Python, true is the id 1
                    is_truth_value = isinstance(row["image_id"], bool) or isinstance(row["category_id"], bool)
                    crowd = _crowd(row)
                    if label is None or is_truth_value or crowd is None or not _has_numbers(row):
                        continue
                    x, y, w, h = map(np.float64, row["bbox"])
                    corners = np.clip([x, y, x + w, y + h], 0, [width, height] * 2).astype(np.float32)
                    if w > 0 and h > 0 and corners[0] < corners[2] and corners[1] < corners[3]:
                        rows.append([label, crowd, *corners.tolist()])
                found.append(sorted(rows))
    except Exception:  # pycocotools and numpy raise many types
        return None
    return found


TEXT_FLAGS = {"1": 1, "true": 1, "yes": 1, "0": 0, "false": 0, "no": 0, "": 0}
"""Exporters write these; pycocotools reads numbers alone."""


def _crowd(row: dict) -> float | None:
    """The crowd flag as a number: null is false, as pycocotools' own ``ignore`` takes it; None if it is no flag."""
    crowd = row.get("iscrowd", 0)
    if isinstance(crowd, str):
        crowd = TEXT_FLAGS.get(crowd.strip().lower(), 0.5)
    crowd = 0 if crowd is None else crowd
    whole = type(crowd) in (int, float, bool) and abs(crowd) < 2**63 and crowd % 1 == 0
    return float(bool(crowd)) if whole else None


def _has_numbers(row: dict) -> bool:
    """Whether the box is four finite numbers."""
    box = row["bbox"]
    return isinstance(box, list) and len(box) == 4 and all(type(v) in (int, float) and abs(v) < 2**31 for v in box)


def agrees(document: Any, dataset: CocoDetection) -> bool:
    """Whether pycocotools must have the same boxes: no entry was merged with another."""
    if {"repeated annotations", "images that share an id"} & set(dataset.findings.dropped):
        return False
    if {"images listed again under another id, taken as one"} & set(dataset.findings.noted):
        return False
    try:
        keys = [row.get("id") for row in document["annotations"]]
        return len(set(keys)) == len(keys)  # of annotations that share an id (1, 1.0, true) pycocotools keeps the last
    except (AttributeError, TypeError):  # an annotation that is no object, an id that is no key
        return False


def check(folder, document: Any, seen: list[str] | None = None) -> None:
    path = folder / "instances.json"
    try:
        path.write_text(json.dumps(document))
    except (ValueError, RecursionError):
        return
    try:
        dataset = CocoDetection(folder, path)
    except (ValueError, FileNotFoundError) as error:
        text = str(error)
        assert text and "\n" not in text and "Traceback" not in text and len(text) < 1000
        text.encode()
        outcome = "refused"
    else:
        "".join([dataset.summary(), *dataset.warnings(), *dataset.category_names]).encode()
        outcome = "used"
        targets = [dataset.target(k) for k in range(len(dataset))]
        for index, target in enumerate(targets):
            height, width = dataset.image_size(index)
            for x1, y1, x2, y2 in target["boxes"].tolist():
                assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height and math.isfinite(x1 + y1 + x2 + y2)
        json.dumps(dataset.ground_truth())
        if agrees(document, dataset) and (expected := by_pycocotools(path, dataset)) is not None:
            own = [
                sorted(
                    [label, float(crowd), *corners]
                    for label, crowd, corners in zip(
                        *(target[key].tolist() for key in ("labels", "iscrowd", "boxes")), strict=True
                    )
                )
                for target in targets
            ]
            assert own == expected
            outcome = "equal"
    if seen is not None:
        seen.append(outcome)


FUZZ = settings(suppress_health_check=list(HealthCheck), deadline=None)


@FUZZ
@example(document=[])
@example(document={"images": [entry(1)], "annotations": [box(1, iscrowd=2)], "categories": [{"id": 3.0}]})
@example(document={"images": [entry(1)], "annotations": [box(1, iscrowd=None)], "categories": [{"id": 3}]})
@given(document=grown())
def test_any_document_is_a_set_or_an_error_in_a_line(folder, document):
    check(folder, document)


@pytest.mark.slow
def test_ten_thousand_documents(folder, capsys):
    seen: list[str] = []

    @settings(FUZZ, max_examples=10_000, database=None)
    @given(document=grown())
    def run(document):
        check(folder, document, seen)

    run()
    counts = {outcome: seen.count(outcome) for outcome in ("equal", "used", "refused")}
    with capsys.disabled():
        print(f"\n{len(seen)} documents: {counts}")
    assert len(seen) >= 9_000 and all(count > 500 for count in counts.values())
