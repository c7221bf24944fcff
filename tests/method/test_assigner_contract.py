"""What every hard assigner promises: shapes, ragged batches, crowd, many gts, half precision, mutual labeling."""

import pytest
import torch
from assigner_cases import STRIDES, check_invariants, random_batch

from mlc_ext import (
    Assigner,
    ATSSAssigner,
    FCOSAssigner,
    MALAssigner,
    MaxIoUAssigner,
    MLCConfig,
    PAAAssigner,
    Predictions,
    SimOTAAssigner,
    TaskAlignedAssigner,
    task_targets,
)

ON_POINTS = (FCOSAssigner, SimOTAAssigner)


def make_all() -> list[Assigner]:
    return [
        MaxIoUAssigner(),
        FCOSAssigner(STRIDES),
        ATSSAssigner(),
        ATSSAssigner(candidates="all"),
        TaskAlignedAssigner(first_label=0),
        SimOTAAssigner(first_label=0, strides=STRIDES),
        PAAAssigner(first_label=0),
        PAAAssigner(first_label=0, candidates="all"),
        MALAssigner(first_label=0, progress=0.5),
        MALAssigner(first_label=0, progress=0.5, candidates="all"),
    ]


def name_of(assigner) -> str:
    return type(assigner).__name__ + ("-all" if getattr(assigner, "candidates", "") == "all" else "")


every_assigner = pytest.mark.parametrize("assigner", make_all(), ids=name_of)
learning = pytest.mark.parametrize("assigner", make_all()[4:], ids=name_of)


def run(assigner, batch):
    anchors, points, targets, predictions = batch
    priors = points if isinstance(assigner, ON_POINTS) else anchors
    found = assigner(priors, targets, predictions)
    check_invariants(found, targets, sum(map(len, priors)))
    return found


def same(a, b):
    assert torch.equal(a.labels, b.labels) and torch.equal(a.candidate_gt, b.candidate_gt)
    assert torch.equal(a.originally_ignored, b.originally_ignored)
    if a.metric is not None:
        torch.testing.assert_close(a.metric, b.metric, rtol=1e-5, atol=1e-6)


@every_assigner
@pytest.mark.parametrize(
    "counts", [((7, 2), (0, 0), (1, 0)), ((0, 0),), ((0, 0), (0, 2)), ((1, 0),), ((500, 0), (3, 1))], ids=str
)
def test_ragged_batches_are_assigned_image_by_image(assigner, counts):
    anchors, points, targets, predictions = batch = random_batch(3, counts)
    found = run(assigner, batch)
    n, offset = len(found.labels) // len(targets), 0
    for i, target in enumerate(targets):
        own = Predictions(predictions.cls_logits[i : i + 1], predictions.boxes[i : i + 1])
        alone = run(assigner, (anchors, points, [target], own))
        part = slice(i * n, (i + 1) * n)
        assert torch.equal(found.labels[part], alone.labels)
        assert torch.equal(
            found.candidate_gt[part], torch.where(alone.candidate_gt >= 0, alone.candidate_gt + offset, -1)
        )
        offset += len(target["boxes"])
    assert (found.labels == 1).any() == any(count for count, _ in counts)


@every_assigner
def test_equal_gts(assigner):
    """Of equal gts the first has all priors. MaxIoU's forced anchors, and so PAA's, go to the last, as MMDetection's;
    MAL's confidences of equal pairs may differ in their last bit."""
    anchors, points, targets, predictions = random_batch(3, ((1, 0),))
    one = targets[0]
    targets = [{"boxes": one["boxes"].repeat(5, 1), "labels": one["labels"].repeat(5)}]
    found = run(assigner, (anchors, points, targets, predictions))
    assert (found.labels == 1).any()
    if not isinstance(assigner, (MaxIoUAssigner, PAAAssigner, MALAssigner)):
        assert set(found.candidate_gt.tolist()) == {-1, 0}


@every_assigner
def test_crowd_is_ignored_where_there_is_no_candidate(assigner):
    anchors, points, targets, predictions = batch = random_batch(3, ((4, 0),))
    without = run(assigner, batch)
    targets = [targets[0] | {"crowd": torch.tensor([[-500.0, -500, 900, 900]])}]
    found = run(assigner, (anchors, points, targets, predictions))
    assert torch.equal(found.labels == 1, without.labels == 1)
    assert torch.equal(found.candidate_gt, without.candidate_gt)
    outside = (found.labels == 0) & (found.candidate_gt < 0)
    if isinstance(assigner, FCOSAssigner):  # a point in a gt's box is not ignored, even if it is not a candidate
        assert outside.sum() < (without.labels == 0).sum()
    elif isinstance(assigner, PAAAssigner):  # nor is an anchor that a gt was matched with
        matched = MaxIoUAssigner(high=assigner.iou, low=assigner.iou)(anchors, targets)
        assert (matched.labels[outside] == 1).all()
    else:
        assert not outside.any()


@learning
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_predictions_are_computed_in_float32(assigner, dtype):
    anchors, points, targets, predictions = random_batch(6)
    half = Predictions(predictions.cls_logits.to(dtype), predictions.boxes.to(dtype))
    full = Predictions(half.cls_logits.float(), half.boxes.float())
    same(run(assigner, (anchors, points, targets, half)), run(assigner, (anchors, points, targets, full)))


@every_assigner
def test_the_form_without_selection_is_the_same(assigner, monkeypatch):
    """What a GPU computes: all entries with a mask, all steps of the mixture; and gts in small chunks."""
    batch = random_batch(2)
    found = run(assigner, batch)
    for module in ("_inputs", "_selection", "_mixture"):
        monkeypatch.setattr(f"mlc_ext.assigners.{module}.on_host", lambda x: False)
    for module in ("_inputs", "_selection", "atss", "fcos", "sim_ota", "auto_assign"):
        monkeypatch.setattr(f"mlc_ext.assigners.{module}.GT_CHUNK", 3)
    same(run(assigner, batch), found)


@every_assigner
@pytest.mark.parametrize("mutual", [False, True])
def test_mutual_labeling_over_each(assigner, mutual):
    _, _, targets, predictions = batch = random_batch(2)
    found = run(assigner, batch)
    boxes, labels = (torch.cat([t[key] for t in targets]) for key in ("boxes", "labels"))
    result = task_targets(
        found,
        predictions.cls_logits.flatten(0, 1),
        predictions.boxes.flatten(0, 1),
        boxes,
        labels,
        MLCConfig(alpha=0.5),
        mutual=mutual,
        first_label=0,
    )
    candidate = found.candidate_gt >= 0
    assert result.num_cls_positive > 0 and result.num_loc_positive > 0
    assert (candidate | (result.cls_labels <= 0)).all() and (candidate | ~result.loc_positive).all()
    columns = labels[found.candidate_gt[result.cls_labels > 0]]
    assert torch.equal(result.cls_labels[result.cls_labels > 0], columns + 1)
    assert torch.equal(result.baseline_positive, found.labels == 1)
    if not mutual:
        assert torch.equal(result.loc_positive, found.labels == 1)


@every_assigner
def test_positives_only_keeps_the_metric_of_the_positives(assigner):
    found = run(assigner, random_batch(2))
    restricted = found.positives_only()
    assert torch.equal(restricted.labels, found.labels) and not restricted.originally_ignored.any()
    if found.metric is not None:
        assert torch.equal(restricted.metric, torch.where(found.labels == 1, found.metric, 0))


@learning
def test_wrong_inputs(assigner):
    anchors, points, targets, predictions = random_batch(2)
    priors = points if isinstance(assigner, ON_POINTS) else anchors
    with pytest.raises(ValueError, match="predictions are needed"):
        assigner(priors, targets)
    with pytest.raises(ValueError, match=r"boxes must have shape \[5, \d+, 4\]"):
        assigner(priors, targets, Predictions(predictions.cls_logits, predictions.boxes[:, 1:]))
    targets[0]["labels"][0] = 5
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.4, got 5"):
        assigner(priors, targets, predictions)


@every_assigner
def test_no_priors(assigner):
    anchors, points, targets, predictions = random_batch(3)
    empty = Predictions(predictions.cls_logits[:, :0], predictions.boxes[:, :0])
    found = run(assigner, ([a[:0] for a in anchors], [p[:0] for p in points], targets, empty))
    assert found.labels.shape == (0,) and found.candidate_gt.shape == (0,)


def test_one_tensor_is_no_list_of_levels():
    _, points, targets, predictions = random_batch(3)
    for assigner in (FCOSAssigner(), ATSSAssigner(), SimOTAAssigner(first_label=0), TaskAlignedAssigner(first_label=0)):
        with pytest.raises(
            TypeError, match=f"{type(assigner).__name__}: priors must be a list with one tensor per lev"
        ):
            assigner(torch.cat(points), targets, predictions)
    with pytest.raises(ValueError, match="FCOSAssigner: 1 levels of priors for 5 strides"):
        FCOSAssigner()(points[:1], targets)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ATSSAssigner(topk=0), "ATSSAssigner: topk must be at least 1, got 0"),
        (lambda: PAAAssigner(first_label=0, topk=0), "PAAAssigner: topk must be at least 1, got 0"),
        (lambda: MALAssigner(first_label=0, bag_size=0), "MALAssigner: bag_size must be at least 1, got 0"),
        (lambda: SimOTAAssigner(first_label=0, topk=-1), "SimOTAAssigner: topk must be at least 1, got -1"),
        (lambda: TaskAlignedAssigner(first_label=0, beta=0), "TaskAlignedAssigner: beta must be positive, got 0"),
    ],
)
def test_settings_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_single_candidate_of_atss_is_positive():
    """Its threshold is its own IoU: there is no deviation."""
    anchors = [torch.tensor([[0.0, 0.0, 10.0, 10.0], [40.0, 40.0, 50.0, 50.0]])]
    found = ATSSAssigner(topk=1)(anchors, [{"boxes": torch.tensor([[0.0, 0.0, 10.0, 12.0]])}])
    assert found.labels.tolist() == [1, 0]
