"""tools/readme_picture.py: which box NMS keeps of an object, and the picture itself."""

from pathlib import Path

import PIL.Image
import pytest
import readme_picture
import torch

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "mutual_labels.png"

GT = torch.tensor([0.0, 0.0, 10.0, 10.0])
BOXES = torch.tensor([[0.0, 0, 10, 6], [0, 0, 10, 9], [50, 50, 60, 60]])
SCORES = torch.tensor([0.9, 0.6, 0.95])
OF_THE_OBJECT = torch.tensor([True, True, False])


@pytest.mark.parametrize(("quality", "iou"), [(None, 0.6), (torch.tensor([0.5, 0.9, 0.1]), 0.9)])
def test_the_kept_box_is_the_best_ranked_of_the_object(quality, iou):
    box, found = readme_picture.first_kept(BOXES, SCORES, quality, OF_THE_OBJECT, GT)
    assert found == pytest.approx(iou) and box[3] == 10 * iou


def test_an_object_without_a_box_has_none():
    assert readme_picture.first_kept(BOXES, SCORES, None, torch.zeros(3, dtype=torch.bool), GT) is None


def test_everything_that_is_drawn_is_in_view_and_the_view_is_4_by_3():
    left, top, right, bottom = readme_picture.view_of(example())
    assert (right - left) * 3 == pytest.approx((bottom - top) * 4)
    assert left < 0 and top < 0 and right > 60 and bottom > 60


def example() -> readme_picture.Example:
    centers = torch.tensor([[4.0, 4.0], [12.0, 4.0]])
    labels = {name: torch.tensor([True, False]) for name in ("baseline", "classification", "localization")}
    kept = {"by score": (BOXES[0], 0.6), "by score × IoU": (BOXES[1], 0.9)}
    return readme_picture.Example(torch.zeros(3, 64, 64, dtype=torch.uint8), GT, centers, labels, BOXES, kept)


def test_drawing_is_deterministic(tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("a.png", "b.png"):
        readme_picture.draw(example(), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with PIL.Image.open(tmp_path / "a.png") as drawn, PIL.Image.open(PICTURE) as committed:
        assert drawn.size == committed.size
    assert PICTURE.stat().st_size < 300_000
