"""Predictions from files: which are used, and which files are refused, in a line that names them."""

import json
import warnings
import zipfile

import numpy as np
import pytest

from mlc_ext.detectors.data.coco.ground_truth import GroundTruth
from mlc_ext.detectors.evaluation.prediction_rows import read_predictions

BOX = {"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def results(tmp_path, *rows):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(rows))
    return path


def archive(tmp_path, **columns):
    ones = np.ones(2, np.float32)
    whole = {"image_ids": np.ones(2, int), "category_ids": np.full(2, 3), "boxes": np.array([[1.0, 2, 4, 6]] * 2),
             "scores": ones, "raw_scores": ones}  # fmt: skip
    path = tmp_path / "predictions.npz"
    np.savez(path, **(whole | columns))
    return path


def test_both_formats_give_the_same(tmp_path):
    one, two = read_predictions(results(tmp_path, BOX, BOX)), read_predictions(archive(tmp_path))
    for name in ("image_ids", "category_ids", "boxes"):
        assert np.array_equal(getattr(one, name), getattr(two, name)), name
    assert one.scores.tolist() == [0.5, 0.5] and (one.before_nms, two.before_nms) == (False, True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "is not in COCO's results format: a dict, not a list"),
        ('{"annotations": []}', "is an annotation file: the arguments are RESULTS, then ANNOTATIONS"),
        ("not json", "is neither JSON nor a .npz archive"),
        ("[1]", "entry 0 has no object"),
        ('[{"image_id": 100, "category_id": 3, "bbox": [1, 2, 3, 4]}]', "entry 0 has no score"),
        ('[{"image_id": 100, "category_id": 3, "bbox": [1, 2, 3], "score": 1}]', r"entry 0 has bbox \[1, 2, 3\]"),
        ('[{"image_id": "x", "category_id": 3, "bbox": [1, 2, 3, 4], "score": 1}]', "entry 0 has ids 'x' and 3"),
    ],
)
def test_contents_that_are_no_results(tmp_path, content, message):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"^{path}.*{message}"):
        read_predictions(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": 10**400}, "scores must be finite; 1 values are not"),
        ({"score": 1e39}, "scores must be finite; 1 values are not"),
        ({"bbox": [1, 2, 3, 10**400]}, "boxes must be finite; 1 values are not"),
        ({"bbox": [1, 2, 1e39, 4]}, "boxes must be finite; 1 values are not"),
        ({"bbox": [1e308, 2, 1.7e308, -(10**400)]}, "boxes must be finite; 3 values are not"),
        ({"bbox": [5, 5, -1, 2]}, "1 of 2 boxes have a negative width or height, such as that of entry 1"),
        ({"bbox": [5, 5, 1, -2]}, "1 of 2 boxes have a negative width or height, such as that of entry 1"),
        ({"image_id": 10**400}, "entry 1 has ids 1000"),
    ],
)
def test_values_that_cannot_be_used(tmp_path, change, message):
    path = results(tmp_path, BOX, BOX | change)
    with pytest.raises(ValueError) as error:
        read_predictions(path)
    assert message in str(error.value) and str(error.value).startswith(f"{path}: ")


def test_boxes_without_width_are_used(tmp_path):
    assert read_predictions(results(tmp_path, BOX | {"bbox": [1, 2, 0, 0]})).boxes.tolist() == [[1, 2, 1, 2]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"scores": np.float32(1)}, r"image_ids of shape \[2\]"),
        ({"boxes": np.float32(1)}, r"boxes of shape \[\] and type float32"),
        ({"boxes": np.ones((2, 5))}, r"boxes of shape \[2, 5\]"),
        ({"image_ids": np.array(["1", "x"])}, "image_ids of shape .* type <U1"),
        ({"category_ids": np.array([1.5, 2])}, "category_ids of shape .* type float64"),
        ({"scores": np.array(["1", "x"])}, "scores of shape .* type <U1"),
        ({"raw_scores": np.array([1j, 2])}, "raw_scores of shape .* type complex128"),
        ({"scores": np.array([{}, {}])}, "allow_pickle"),
    ],
)
def test_archives_with_other_arrays(tmp_path, columns, message):
    path = archive(tmp_path, **columns)
    with pytest.raises(ValueError, match=f"^{path} is not an archive of mlc_ext.PredictionWriter: .*{message}"):
        read_predictions(path)


def test_values_of_an_archive(tmp_path):
    for columns, message in (
        ({"boxes": np.full((2, 4), 1e39)}, "boxes must be finite; 8 values are not"),
        ({"boxes": np.array([[1, 2, 4, 6], [4, 2, 1, 6]])}, "1 of 2 boxes have a negative width"),
        ({"raw_scores": np.array([np.nan, 1])}, "raw_scores must be finite; 1 values are not"),
    ):
        with pytest.raises(ValueError, match=message):
            read_predictions(archive(tmp_path, **columns))


def test_damaged_archives(tmp_path):
    path = archive(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:200] + bytes(40) + whole[240:])
    with pytest.raises(ValueError, match=f"^{path} is not an archive"):
        read_predictions(path)
    with zipfile.ZipFile(path, "w") as file:
        for name in ("image_ids", "category_ids", "boxes", "scores", "raw_scores"):
            file.writestr(name, b"text")
    with pytest.raises(ValueError, match=f"^{path} is not an archive"):
        read_predictions(path)


IMAGES = [{"id": k, "file_name": f"{k}.png", "width": 64, "height": 64} for k in range(1, 4)]


@pytest.mark.parametrize(
    ("images", "usable"),
    [
        (IMAGES, [1, 2, 3]),
        ([*IMAGES[:2], {**IMAGES[2], "width": 0}], [1, 2]),
        ([*IMAGES, {**IMAGES[2], "file_name": "other.png"}], [1, 2]),  # id 3 has two files
        ([*IMAGES[:2], {**IMAGES[2], "file_name": "1.png"}], [1, 2]),  # id 1 and 3 have one file
    ],
    ids=["all", "malformed", "one id, two files", "two ids, one file"],
)
def test_predictions_on_images_that_cannot_be_used_are_left_out(tmp_path, images, usable):
    annotations = tmp_path / "annotations.json"
    objects = [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4]}]
    annotations.write_text(
        json.dumps({"images": images, "annotations": objects, "categories": [{"id": 3, "name": "cat"}]})
    )
    truth = GroundTruth(annotations)
    path = results(tmp_path, *(BOX | {"image_id": k, "score": k / 8} for k in (3, 1, 2, 3)))
    rows = read_predictions(path).matched(truth, path, annotations)
    expected = {1: [1 / 8], 2: [2 / 8], 3: [3 / 8, 3 / 8]}
    assert truth.image_ids == usable and rows.left_out == (0 if 3 in usable else 2)
    assert {usable[k]: found["scores"].tolist() for k, found in rows.of_images(truth)} == {
        image_id: expected[image_id] for image_id in usable
    }
    path = results(tmp_path, BOX | {"image_id": 4})
    with pytest.raises(ValueError, match=f"^{path}: 1 of 1 predictions have an image id that {annotations} does not"):
        read_predictions(path).matched(truth, path, annotations)
