"""FCOSAssigner against a rule written point by point, and against MMDetection's recorded labels."""

import pytest
import torch
from golden import load_golden

from mlc_ext import MaxIoUAssigner
from mlc_ext.assigners.fcos import GT_CHUNK, INFINITY, FCOSAssigner, default_regress_ranges
from mlc_ext.detectors.models.anchors import fcos_points

STRIDES = (8, 16, 32, 64, 128)
RANGES = ((-1, 64), (64, 128), (128, 256), (256, 512), (512, 1e8))  # FCOS, BASELINES.md


def feature_sizes(height, width, strides=STRIDES):
    return [(-(-height // s), -(-width // s)) for s in strides]


def target(boxes, crowd=()):
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "crowd": torch.tensor(crowd, dtype=torch.float32).reshape(-1, 4),
    }


def random_target(g, num_gts, num_crowd=0, size=256):
    """Whole-pixel corners on a coarse grid: points fall on borders, areas and ranges tie."""
    corner = torch.randint(0, size // 4, (num_gts + num_crowd, 2), generator=g) * 4
    extent = torch.randint(1, size // 4, (num_gts + num_crowd, 2), generator=g) * 4
    boxes = torch.cat((corner, (corner + extent).clamp(max=size)), dim=1).float()
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 4)
    return {"boxes": boxes[:num_gts], "crowd": boxes[num_gts:]}


def inside(x, y, box):
    return box[0] < x < box[2] and box[1] < y < box[3]


def near_center(x, y, box, reach):
    """Strictly inside the square around the center, cut to the box."""
    cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return inside(x, y, box) and abs(x - cx) < reach and abs(y - cy) < reach


def assign_slowly(points, targets, ranges=RANGES, strides=STRIDES, radius=None, candidates_are="positives"):
    """-> labels, candidate gt, originally ignored: lists over all points of all images."""
    if candidates_are == "own_levels":
        return restrict_slowly(points, targets, assign_slowly(points, targets, ranges, strides, radius, "all"))
    labels, candidates, ignored, offset = [], [], [], 0
    for one in targets:
        boxes, crowd = one["boxes"].tolist(), one["crowd"].tolist()
        for level, (low, high), stride in zip(points, ranges, strides, strict=True):
            for x, y in level.tolist():
                fitting, containing = [], []
                for k, box in enumerate(boxes):
                    if not inside(x, y, box):
                        continue
                    area = (box[2] - box[0]) * (box[3] - box[1])
                    containing.append((area, k))
                    longest = max(x - box[0], y - box[1], box[2] - x, box[3] - y)
                    if low <= longest <= high and (radius is None or near_center(x, y, box, radius * stride)):
                        fitting.append((area, k))
                chosen = min(fitting or (containing if candidates_are == "all" else ()), default=None)
                candidates.append(-1 if chosen is None else chosen[1] + offset)
                ignored.append(chosen is not None and not fitting)
                on_crowd = not containing and any(inside(x, y, box) for box in crowd)
                labels.append(-1 if on_crowd else int(bool(fitting)))
        offset += len(boxes)
    return labels, candidates, ignored


def restrict_slowly(points, targets, everything):
    """Of the points that are no positives, those on a level where a gt that contains them has a positive, to the
    smallest such gt."""
    labels, candidates, _ = everything
    boxes = [box for one in targets for box in one["boxes"].tolist()]
    image = [i for i, one in enumerate(targets) for _ in one["boxes"]]
    places = [(i, n, x, y) for i in range(len(targets)) for n, level in enumerate(points) for x, y in level.tolist()]
    own = {(k, place[1]) for place, k, label in zip(places, candidates, labels, strict=True) if label == 1}
    chosen = []
    for (i, n, x, y), k, label in zip(places, candidates, labels, strict=True):
        if label != 1:
            fitting = [
                ((b[2] - b[0]) * (b[3] - b[1]), k)
                for k, b in enumerate(boxes)
                if image[k] == i and (k, n) in own and inside(x, y, b)
            ]
            k = min(fitting, default=(0, -1))[1]
        chosen.append(k)
    return labels, chosen, [k >= 0 and label != 1 for k, label in zip(chosen, labels, strict=True)]


def check(assigner, points, targets, **rule):
    found = assigner(points, targets)
    assert found.labels.dtype == torch.int8 and found.candidate_gt.dtype == torch.int64
    assert found.originally_ignored.dtype == torch.bool
    labels, candidates, ignored = assign_slowly(points, targets, **rule)
    assert found.labels.tolist() == labels
    assert found.candidate_gt.tolist() == candidates
    assert found.originally_ignored.tolist() == ignored
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("radius", [None, 1.5])
@pytest.mark.parametrize("candidates", ["positives", "own_levels", "all"])
def test_equals_the_rule_point_by_point(candidates, radius, seed):
    g = torch.Generator().manual_seed(seed)
    points = fcos_points(feature_sizes(256, 224), STRIDES)
    targets = [random_target(g, n, c) for n, c in ((7, 2), (0, 0), (1, 0), (0, 3), (12, 1))]
    assigner = FCOSAssigner(center_sampling_radius=radius, candidates=candidates)
    found = check(assigner, points, targets, radius=radius, candidates_are=candidates)
    # the batch is worth something: all three kinds of point, in more than one image
    assert {-1, 0, 1} == set(found.labels.tolist())
    assert found.originally_ignored.any() == (candidates != "positives")
    assert found.candidate_gt[found.labels == 1].max() >= 8


@pytest.mark.parametrize("radius", [None, 1.5])
@pytest.mark.parametrize("num_gts", [GT_CHUNK, GT_CHUNK + 1, 500])
def test_many_gts_go_through_in_chunks(num_gts, radius):
    g = torch.Generator().manual_seed(num_gts)
    points = fcos_points(feature_sizes(64, 64), STRIDES)
    one = random_target(g, num_gts, size=64)
    assigner = FCOSAssigner(center_sampling_radius=radius, candidates="own_levels")
    found = check(assigner, points, [one, one], radius=radius, candidates_are="own_levels")
    n = found.labels.numel() // 2
    assert (found.candidate_gt[n:][found.candidate_gt[:n] >= 0] >= num_gts).all()


def test_chunks_do_not_change_the_result(monkeypatch):
    points = fcos_points(feature_sizes(256, 256), STRIDES)
    one = random_target(torch.Generator().manual_seed(3), 500)
    chunked = FCOSAssigner(candidates="all")(points, [one])
    monkeypatch.setattr("mlc_ext.assigners.fcos.GT_CHUNK", 10_000)
    whole = FCOSAssigner(candidates="all")(points, [one])
    assert torch.equal(chunked.labels, whole.labels) and torch.equal(chunked.candidate_gt, whole.candidate_gt)


def test_golden_labels():
    for golden in load_golden("fcos"):
        points = [golden[f"points_{level}"] for level in range(5)]
        gts = [golden[f"gt_boxes_{i}"] for i in range(2)]
        found = FCOSAssigner()(points, [{"boxes": b, "crowd": b[:0]} for b in gts])
        all_boxes = torch.cat(gts)
        gt_labels = torch.cat([golden[f"gt_labels_{i}"] for i in range(2)])
        all_points = torch.cat(points).repeat(2, 1)
        level_of = torch.cat([torch.full((len(p),), level) for level, p in enumerate(points)]).repeat(2)
        positives = 0
        for level in range(5):
            here = level_of == level  # images one after another, as MMDetection concatenates them
            positive = found.labels[here] == 1
            gt = found.candidate_gt[here]
            classes = torch.where(positive, gt_labels[gt], golden["num_classes"])
            assert torch.equal(classes, golden[f"labels_{level}"])
            p, b = all_points[here][positive], all_boxes[gt[positive]]
            ltrb = torch.cat((p - b[:, :2], b[:, 2:] - p), dim=1)
            assert torch.equal(ltrb, golden[f"box_targets_{level}"][positive])
            positives += int(positive.sum())
        assert positives > 20 and not (found.labels == -1).any()


def test_the_first_of_equally_small_gts_wins():
    points = fcos_points(feature_sizes(64, 64), STRIDES)
    found = FCOSAssigner()(points, [target([(0, 0, 40, 20), (0, 0, 20, 40), (0, 0, 20, 40)])])
    both = points[0].lt(20).all(1)
    assert both.sum() == 4 and (found.candidate_gt[: len(both)][both] == 0).all()
    assert not (found.candidate_gt == 2).any()


def test_ties_across_chunks_go_to_the_first_gt():
    points = fcos_points(feature_sizes(64, 64), STRIDES)
    found = FCOSAssigner()(points, [target([(0, 0, 40, 40)] * (2 * GT_CHUNK + 1))])
    assert set(found.candidate_gt.tolist()) == {-1, 0}


def test_a_positive_keeps_its_gt_though_a_smaller_one_contains_it():
    # The small gt fits level 0 only; at level 1 its points belong to the large one, which fits there.
    points = fcos_points(feature_sizes(128, 128), STRIDES)
    found = FCOSAssigner(candidates="all")(points, [target([(4, 4, 100, 100), (4, 4, 44, 44)])])
    n0 = len(points[0])
    level1 = slice(n0, n0 + len(points[1]))
    shared = points[1].lt(44).all(1)  # points (8, 8) .. (40, 40)
    assert shared.sum() == 9
    longest = (100 - points[1]).amax(1)
    fits = shared & (longest >= 64)
    assert (found.candidate_gt[level1][fits] == 0).all() and (found.labels[level1][fits] == 1).all()
    rest = shared & ~fits  # fit no level-1 range: the smallest gt that contains them
    assert rest.any() and (found.candidate_gt[level1][rest] == 1).all()
    assert found.originally_ignored[level1][rest].all() and (found.labels[level1][rest] == 0).all()


@pytest.mark.parametrize(("longest", "level"), [(63, [0]), (64, [0, 1]), (65, [1])])
def test_range_ends_belong_to_both_levels(longest, level):
    point = torch.tensor([[100.0, 100.0]])
    found = FCOSAssigner(candidates="all")([point] * 5, [target([(100 - longest, 90, 110, 110)])])
    assert torch.nonzero(found.labels == 1).flatten().tolist() == level
    assert (found.candidate_gt == 0).all()


@pytest.mark.parametrize("x", [0.0, 8.0])
def test_a_point_on_the_border_is_outside(x):
    found = FCOSAssigner((8,))([torch.tensor([[x, 4.0]])], [target([(0, 0, 8, 8)])])
    assert found.labels.tolist() == [0] and found.candidate_gt.tolist() == [-1]


def test_crowd_is_ignored_but_not_where_a_gt_is():
    points = fcos_points(feature_sizes(128, 128), STRIDES)
    found = FCOSAssigner(candidates="all")(points, [target([(0, 0, 40, 40)], crowd=[(16, 16, 100, 100)])])
    all_points = torch.cat(points)
    in_gt = all_points.lt(40).all(1)
    in_crowd = all_points.gt(16).all(1) & all_points.lt(100).all(1)
    assert (found.labels[in_gt] >= 0).all() and (found.candidate_gt[in_gt] == 0).all()
    assert (found.labels[in_crowd & ~in_gt] == -1).all() and (found.labels[~in_crowd & ~in_gt] == 0).all()
    assert (found.candidate_gt[~in_gt] == -1).all() and not found.originally_ignored[~in_gt].any()


def test_images_without_boxes_and_all_crowd():
    points = fcos_points(feature_sizes(64, 64), STRIDES)
    found = FCOSAssigner()(points, [target([]), target([], crowd=[(0, 0, 64, 64)])])
    empty, crowd = found.labels.chunk(2)
    assert (empty == 0).all()
    # points of coarse levels lie beyond the crowd's box: on or outside its border
    assert torch.equal(crowd == -1, torch.cat(points).lt(64).all(1))
    assert (found.candidate_gt == -1).all() and not found.originally_ignored.any()


def test_one_pixel_boxes():
    points = fcos_points(feature_sizes(64, 64), STRIDES)
    on_point, off_point = (3.5, 3.5, 4.5, 4.5), (5.0, 5.0, 6.0, 6.0)
    found = FCOSAssigner()(points, [target([off_point, on_point])])
    assert torch.nonzero(found.candidate_gt >= 0).tolist() == [[0]]
    assert found.candidate_gt[0] == 1 and found.labels[0] == 1


def test_gt_indices_run_over_the_batch():
    points = fcos_points(feature_sizes(64, 64), STRIDES)
    boxes = [(0, 0, 30, 30), (32, 32, 60, 60)]
    alone = FCOSAssigner()(points, [target(boxes)]).candidate_gt
    batch = FCOSAssigner()(points, [target(boxes[:1]), target([]), target(boxes), target(boxes)])
    _, _, third, fourth = batch.candidate_gt.chunk(4)
    assert torch.equal(third, torch.where(alone >= 0, alone + 1, -1))
    assert torch.equal(fourth, torch.where(alone >= 0, alone + 3, -1))


def test_center_sampling_limits_positives_not_candidates():
    points = fcos_points(feature_sizes(256, 256), STRIDES)
    targets = [target([(0, 0, 120, 120), (100, 100, 250, 130)])]
    plain = FCOSAssigner(candidates="all")(points, targets)
    sampled = FCOSAssigner(center_sampling_radius=1.5, candidates="all")(points, targets)
    assert (sampled.labels == 1).sum() < (plain.labels == 1).sum()
    assert torch.equal(sampled.candidate_gt >= 0, plain.candidate_gt >= 0)
    assert ((plain.labels == 1) >= (sampled.labels == 1)).all()


def test_default_ranges():
    assert default_regress_ranges(STRIDES) == [tuple(map(float, r)) for r in RANGES]
    assert default_regress_ranges([4, 8]) == [(-1.0, 32.0), (32.0, INFINITY)]
    assert default_regress_ranges([32]) == [(-1.0, INFINITY)]
    custom = FCOSAssigner((8, 16), regress_ranges=[(-1, 40), (20, 1e8)])
    point = torch.tensor([[50.0, 50.0]])
    assert custom([point, point], [target([(20, 20, 80, 80)])]).labels.tolist() == [1, 1]


def test_candidates_do_not_change_the_labels():
    points = fcos_points(feature_sizes(256, 256), STRIDES)
    targets = [random_target(torch.Generator().manual_seed(5), 9, 2)]
    found = {kind: FCOSAssigner(candidates=kind)(points, targets) for kind in ("positives", "own_levels", "all")}
    counts = [int((f.candidate_gt >= 0).sum()) for f in found.values()]
    assert counts == sorted(counts) and len(set(counts)) == 3
    assert all(torch.equal(f.labels, found["all"].labels) for f in found.values())


def test_anchors_candidates():
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 22], [0, 0, 10, 60]])  # IoU 1, 0.45 and 0.17
    everything, positives = (MaxIoUAssigner(candidates=kind)(anchors, [target([(0, 0, 10, 10)])])
                             for kind in ("all", "positives"))  # fmt: skip
    assert everything.candidate_gt.tolist() == [0, 0, -1] and everything.originally_ignored.tolist() == [0, 1, 0]
    assert positives.candidate_gt.tolist() == [0, -1, -1] and not positives.originally_ignored.any()
    assert everything.labels.tolist() == positives.labels.tolist() == [1, -1, 0]


def test_unknown_candidates():
    with pytest.raises(ValueError, match="FCOSAssigner: candidates must be one of 'positives', 'own_levels', 'all'"):
        FCOSAssigner(candidates="some")
    with pytest.raises(ValueError, match="MaxIoUAssigner: candidates must be one of .*, got 'own_levels'"):
        MaxIoUAssigner(candidates="own_levels")


def test_ranges_must_fit_the_strides():
    with pytest.raises(ValueError, match="2 regress_ranges for 3 strides"):
        FCOSAssigner((8, 16, 32), regress_ranges=[(-1, 64), (64, 128)])
