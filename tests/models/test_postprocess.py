"""Postprocessor against loops over images, levels and classes, and against MMDetection's recorded detections."""

import pytest
import torch
from golden import load_golden, same_detections

from mlc_ext import box_iou
from mlc_ext.detectors.models.coders import LTRBCoder
from mlc_ext.detectors.models.postprocess import Postprocessor

LEVELS = (48, 12, 3)
SIZES = [(100, 120), (60, 128)]


def random_outputs(seed, num_classes=3, batch=2, levels=LEVELS):
    """Logits, boxes that crowd together and reach out of their images, and quality."""
    g = torch.Generator().manual_seed(seed)
    n = sum(levels)
    logits = torch.randn(batch, n, num_classes, generator=g) * 2 - 1.5
    center = torch.rand(batch, n, 2, generator=g) * 130 - 5
    half = 5 + torch.rand(batch, n, 2, generator=g) * 25
    return logits, torch.cat((center - half, center + half), dim=-1), torch.rand(batch, n, generator=g)


def detect_slowly(logits, boxes, quality, levels, sizes, score=0.05, top_k=1000, iou=0.5, limit=100,
                  min_size=0.0, per_level=False):  # fmt: skip
    """Image by image, level by level, group by group; greedy suppression with a matrix of IoUs."""
    results = []
    for i, (height, width) in enumerate(sizes):
        image_boxes = boxes[i].clone()
        image_boxes[:, 0::2] = image_boxes[:, 0::2].clamp(0, width)
        image_boxes[:, 1::2] = image_boxes[:, 1::2].clamp(0, height)
        pairs, start = [], 0
        for level, size in enumerate(levels):
            of_level = []
            for prior in range(start, start + size):
                for c in range(logits.shape[2]):
                    raw = torch.sigmoid(logits[i, prior, c]).item()
                    if raw > score:
                        of_level.append((raw * (1.0 if quality is None else quality[i, prior].item()), prior, c, level))
            of_level.sort(key=lambda pair: -pair[0])
            pairs += of_level[:top_k]
            start += size
        extent = image_boxes[:, 2:] - image_boxes[:, :2]
        pairs = [p for p in pairs if min(extent[p[1]].tolist()) > min_size]  # after the top-k, which they took part in
        overlaps, kept = box_iou(image_boxes, image_boxes), []
        by = 3 if per_level else 2
        for group in {p[by] for p in pairs}:
            of_group: list[tuple[float, int, int, int]] = []
            for pair in sorted((p for p in pairs if p[by] == group), key=lambda p: -p[0]):
                if all(overlaps[pair[1], other[1]] <= iou for other in of_group):
                    of_group.append(pair)
            kept += of_group
        kept = sorted(kept, key=lambda p: -p[0])[:limit]
        priors = [p[1] for p in kept]
        results.append((image_boxes[priors], [p[2] + 1 for p in kept], [p[0] for p in kept]))
    return results


def check(found, expected):
    assert len(found) == len(expected)
    for detections, (boxes, labels, scores) in zip(found, expected, strict=True):
        assert detections["labels"].tolist() == labels and detections["labels"].dtype == torch.int64
        torch.testing.assert_close(detections["scores"], torch.tensor(scores), rtol=1e-6, atol=1e-7)
        assert torch.equal(detections["boxes"], boxes)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("with_quality", [True, False])
@pytest.mark.parametrize("num_classes", [1, 3])
def test_equals_the_loops(seed, with_quality, num_classes):
    logits, boxes, quality = random_outputs(seed, num_classes)
    quality = quality if with_quality else None
    found = Postprocessor()(logits, boxes, quality, LEVELS, SIZES)
    check(found, detect_slowly(logits, boxes, quality, LEVELS, SIZES))
    assert all(10 < len(d["boxes"]) < sum(LEVELS) * num_classes for d in found)


@pytest.mark.parametrize("top_k", [1, 5, 20, 10_000, None])
def test_pre_nms_top_k_is_per_level_and_ranked_by_the_product(top_k):
    logits, boxes, quality = random_outputs(11)
    found = Postprocessor(pre_nms_top_k=top_k)(logits, boxes, quality, LEVELS, SIZES)
    check(found, detect_slowly(logits, boxes, quality, LEVELS, SIZES, top_k=top_k))
    if top_k == 1:  # one a level
        assert all(len(d["scores"]) <= len(LEVELS) for d in found)


@pytest.mark.parametrize(("score", "iou", "limit"), [(0.3, 0.5, 100), (0.05, 0.0, 100), (0.05, 1.0, 7), (0.0, 0.3, 0)])
def test_thresholds_and_limit(score, iou, limit):
    logits, boxes, quality = random_outputs(5)
    processor = Postprocessor(score_threshold=score, iou_threshold=iou, max_detections=limit)
    found = processor(logits, boxes, quality, LEVELS, SIZES)
    check(found, detect_slowly(logits, boxes, quality, LEVELS, SIZES, score=score, iou=iou, limit=limit))
    assert all(len(d["boxes"]) <= limit and d["boxes"].shape[1] == 4 for d in found)


@pytest.mark.parametrize("min_size", [0.0, 25.0])
def test_small_boxes_are_dropped_after_the_top_k(min_size):
    outputs = random_outputs(6)
    found = Postprocessor(min_size=min_size, pre_nms_top_k=30)(*outputs, LEVELS, SIZES)
    check(found, detect_slowly(*outputs, LEVELS, SIZES, min_size=min_size, top_k=30))
    sides = torch.cat([d["boxes"][:, 2:] - d["boxes"][:, :2] for d in found])
    assert len(sides) > 10 and (sides > min_size).all()
    outside = torch.tensor([[200.0, 5, 210, 20], [5, 5, 5, 20], [5, 5, 9, 20]])  # two of no area once clipped
    assert Postprocessor()(torch.zeros(1, 3, 1), outside[None], None, [3], [(50, 50)])[0]["boxes"].shape == (1, 4)


@pytest.mark.parametrize("num_classes", [1, 3])
def test_suppression_per_level(num_classes):
    logits, boxes, quality = random_outputs(8, num_classes)
    found = Postprocessor(per_level=True)(logits, boxes, quality, LEVELS, SIZES)
    check(found, detect_slowly(logits, boxes, quality, LEVELS, SIZES, per_level=True))
    across = Postprocessor()(logits, boxes, quality, LEVELS, SIZES)
    assert any(len(a["scores"]) != len(b["scores"]) for a, b in zip(found, across, strict=True))


def one_image(scores, quality, boxes=None, **options):
    scores = torch.tensor(scores)
    n = len(scores)
    if boxes is None:
        boxes = torch.arange(n)[:, None] * 20.0 + torch.tensor([0.0, 0.0, 10.0, 10.0])
    logits = torch.logit(scores).reshape(1, n, 1)
    quality = None if quality is None else torch.tensor([quality])
    processor = Postprocessor(**{"pre_nms_top_k": 1000, **options})
    return processor(logits, boxes[None], quality, [n], [(1000, 1000)])[0]


def test_the_threshold_is_on_the_raw_score():
    found = one_image([0.9, 0.06, 0.04], [0.01, 0.5, 1.0])
    assert found["scores"].tolist() == pytest.approx([0.06 * 0.5, 0.9 * 0.01])
    assert found["boxes"][:, 0].tolist() == [20, 0]


def test_the_threshold_is_strict():
    score = torch.sigmoid(torch.tensor(-1.0)).item()
    logits, box = torch.full((1, 1, 1), -1.0), torch.tensor([[[0.0, 0, 5, 5]]])
    for threshold, count in ((score, 0), (score - 1e-6, 1)):
        found = Postprocessor(score_threshold=threshold)(logits, box, None, [1], [(9, 9)])
        assert len(found[0]["scores"]) == count


def test_the_product_decides_who_is_suppressed():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9]])
    found = one_image([0.9, 0.6], [0.5, 0.9], boxes)
    assert found["scores"].tolist() == pytest.approx([0.54]) and found["boxes"].tolist() == [[0, 0, 10, 9]]
    found = one_image([0.9, 0.6], None, boxes)
    assert found["scores"].tolist() == pytest.approx([0.9])


def test_pairs_under_the_threshold_take_no_place_in_the_top_k():
    """Quality lifts their product above the others', but they are no candidates."""
    found = one_image([0.04, 0.9, 0.04], [1.0, 0.02, 1.0], pre_nms_top_k=1)
    assert found["scores"].tolist() == pytest.approx([0.018])


def test_classes_do_not_suppress_each_other():
    logits, box = torch.tensor([[[2.0, 1.0]]]), torch.tensor([[[0.0, 0, 5, 5]]])
    found = Postprocessor()(logits, box, None, [1], [(9, 9)])[0]
    assert found["labels"].tolist() == [1, 2] and torch.equal(found["boxes"][0], found["boxes"][1])


def test_boxes_are_clipped_to_their_own_image_before_suppression():
    """Both boxes are one and the same once cut at the border of the first image."""
    boxes = torch.tensor([[[5.0, 5, 30, 30], [5, 5, 90, 90]]]).repeat(2, 1, 1)
    logits = torch.tensor([[[2.0], [1.0]]]).repeat(2, 1, 1)
    small, large = Postprocessor()(logits, boxes, None, [2], [(20, 25), (100, 100)])
    assert small["boxes"].tolist() == [[5, 5, 25, 20]] and len(large["boxes"]) == 2


def test_nothing_found():
    logits, boxes, quality = random_outputs(0)
    for found in Postprocessor()(logits - 50, boxes, quality, LEVELS, SIZES):
        assert found["boxes"].shape == (0, 4) and found["labels"].shape == found["scores"].shape == (0,)
    assert Postprocessor(max_detections=0)(logits, boxes, quality, LEVELS, SIZES)[0]["boxes"].shape == (0, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_outputs_are_scored_in_float32(dtype):
    logits, boxes, quality = (x.to(dtype) for x in random_outputs(2))
    found = Postprocessor()(logits, boxes.float(), quality, LEVELS, SIZES)
    assert found[0]["scores"].dtype == found[0]["boxes"].dtype == torch.float32
    check(found, detect_slowly(logits.float(), boxes.float(), quality.float(), LEVELS, SIZES))


def test_golden_detections():
    for golden in load_golden("fcos"):
        points = [golden[f"points_{level}"] for level in range(5)]
        layout = {
            name: torch.cat([golden[f"{name}_{level}"].flatten(2).transpose(1, 2) for level in range(5)], dim=1)
            for name in ("cls", "reg", "ctr")
        }
        boxes = LTRBCoder().decode(torch.cat(points), layout["reg"])
        quality = layout["ctr"].squeeze(-1).sigmoid()
        size = tuple(golden["image_size"].tolist())
        found = Postprocessor()(layout["cls"], boxes, quality, [len(p) for p in points], [size] * 2)
        for i, detections in enumerate(found):
            recorded = {key: golden[f"det_{key}_{i}"] for key in ("boxes", "scores", "labels")}
            recorded["labels"] = recorded["labels"] + 1
            same_detections(detections, recorded, scores=1e-7, boxes=1e-4, relative=1e-6)


def test_recorded_detections_of_equal_score_come_in_any_order():
    boxes = torch.arange(16.0).reshape(4, 4)
    scores, labels = torch.tensor([0.9, 0.5, 0.5, 0.1]), torch.tensor([1, 2, 3, 1])
    recorded = {"boxes": boxes, "scores": scores, "labels": labels}
    swapped = torch.tensor([0, 2, 1, 3])
    same_detections({"boxes": boxes[swapped], "scores": scores, "labels": labels[swapped]}, recorded, scores=0, boxes=0)
    for other in ([1, 0, 2, 3], [0, 1, 1, 3]):  # of different scores; one twice
        with pytest.raises(AssertionError):
            same_detections(
                {"boxes": boxes[other], "scores": scores, "labels": labels[other]}, recorded, scores=0, boxes=0
            )
    with pytest.raises(AssertionError):  # boxes exchanged, labels not
        same_detections({"boxes": boxes[swapped], "scores": scores, "labels": labels}, recorded, scores=0, boxes=0)
