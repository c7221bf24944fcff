"""task_targets and mlc_losses against Eq. 4-10 written gt by gt in numpy."""

import dataclasses

import numpy as np
import pytest
import torch

from mlc_ext import Assignment, MLCConfig, TaskTargets, mlc_losses, task_targets

NUM_CLASSES = 4


def random_boxes(n, g):
    corner = torch.rand(n, 2, generator=g) * 50
    return torch.cat((corner, corner + 10 + torch.rand(n, 2, generator=g) * 40), dim=1)


def random_case(seed, n=200, num_gts=6, num_empty=1):
    """Priors of a batch: the last ``num_empty`` gts have no candidates; boxes scatter around their gts."""
    g = torch.Generator().manual_seed(seed)
    gt_boxes = random_boxes(num_gts, g)
    gt_labels = torch.randint(1, NUM_CLASSES + 1, (num_gts,), generator=g)
    gt = torch.randint(-1, num_gts - num_empty, (n,), generator=g) if num_gts else torch.full((n,), -1)
    candidate = gt >= 0
    kind = torch.randint(0, 3, (n,), generator=g)  # of candidates: positive, originally ignored, RPN-like negative
    labels = torch.where(candidate, torch.tensor([1, -1, 0])[kind], -torch.randint(0, 2, (n,), generator=g))
    assignment = Assignment(labels=labels.to(torch.int8), candidate_gt=gt, originally_ignored=candidate & (kind == 1))
    boxes = random_boxes(n, g)
    if num_gts:
        near = gt_boxes[gt.clamp(min=0)] + torch.randn(n, 4, generator=g) * 6
        boxes = torch.where((candidate & (torch.rand(n, generator=g) < 0.8))[:, None], near, boxes)
    logits = torch.randn(n, NUM_CLASSES, generator=g) * 2
    return assignment, logits, boxes, gt_boxes, gt_labels


def iou(a, b):
    """One pair, in float32 step by step as the operator computes."""
    a, b = a.astype(np.float32), b.astype(np.float32)
    overlap = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    extent_a, extent_b = np.maximum(a[2:] - a[:2], 0), np.maximum(b[2:] - b[:2], 0)
    inter = overlap[0] * overlap[1]
    union = extent_a[0] * extent_a[1] + extent_b[0] * extent_b[1] - inter
    return inter / union if union > 0 else np.float32(0)


def otsu(values):
    """Every cut tried: the largest value of the lower class, by the between-class variance itself."""
    values = np.sort(np.asarray(values, dtype=np.float64))
    best, tau = -1.0, values[-1]
    for cut in np.unique(values)[:-1]:
        low, high = values[values <= cut], values[values > cut]
        variance = len(low) * len(high) * (low.mean() - high.mean()) ** 2
        if variance > best * (1 + 1e-12):
            best, tau = variance, cut
    return tau


def expected_targets(assignment, scores, ious, gt_labels, alpha=0.0, literal=False, midpoint=False, min_gap=0.0):
    """Eq. 4-8 gt by gt -> cls_labels, cls_weights, loc_positive, loc_weights."""
    scores, ious = scores.copy(), ious.copy()
    labels, gt = assignment.labels.numpy(), assignment.candidate_gt.numpy()
    ignored = assignment.originally_ignored.numpy()
    cls_labels, cls_weights = np.minimum(labels.astype(np.int64), 0), (labels >= 0).astype(float)
    loc_weights = np.zeros(len(labels))
    for k in range(len(gt_labels)):
        members = np.flatnonzero(gt == k)
        if len(members) == 0:
            continue
        for task, values in (("cls", ious), ("loc", scores)):
            tau, splittable = otsu(values[members]), len(np.unique(values[members])) > 1
            above = values[members] > tau
            if splittable and values[members][above].mean() - values[members][~above].mean() < min_gap:
                values[members], splittable = tau, False
            if midpoint and splittable:
                tau = (tau + min(v for v in values[members] if v > tau)) / 2
            for j in members:
                if splittable or literal:
                    positive = values[j] > tau
                    weight = abs(values[j] - tau) ** alpha if ignored[j] else 1.0
                    label = int(positive)
                else:  # as the baseline
                    label = -1 if ignored[j] else labels[j]
                    positive, weight = label == 1, float(label >= 0)
                if task == "cls":
                    cls_labels[j] = gt_labels[k] if positive else label
                    cls_weights[j] = weight
                else:
                    loc_weights[j] = weight if positive else 0.0
    return cls_labels, cls_weights, loc_weights > 0, loc_weights


def measured(assignment, logits, boxes, gt_boxes, gt_labels):
    """S_j and I_j of the candidates, [N] float32; 0 for the others."""
    scores = np.zeros(len(boxes), dtype=np.float32)
    ious = np.zeros(len(boxes), dtype=np.float32)
    for j, k in enumerate(assignment.candidate_gt.tolist()):
        if k >= 0:
            ious[j] = iou(boxes[j].numpy(), gt_boxes[k].numpy())
            scores[j] = logits[j, gt_labels[k] - 1].sigmoid()
    return scores, ious


def check(case, found: TaskTargets, config):
    assignment, logits, boxes, gt_boxes, gt_labels = case
    scores, ious = measured(*case)
    np.testing.assert_allclose(found.ious.detach(), ious, atol=1e-6)
    np.testing.assert_allclose(found.scores.detach(), scores, atol=1e-6)
    # labels from the values that the operator saw: one last bit must not decide
    values = found.scores.detach().numpy(), found.ious.detach().numpy()
    if config.metric == "alignment":
        values = ((found.scores * found.ious**config.alignment_exponent).detach().numpy(),) * 2
    expected = expected_targets(
        assignment, *values, gt_labels.numpy(), config.alpha,
        config.degenerate == "literal", config.tau == "midpoint", config.min_gap,
    )  # fmt: skip
    cls_labels, cls_weights, loc_positive, loc_weights = expected
    assert found.cls_labels.tolist() == cls_labels.tolist()
    assert found.loc_positive.tolist() == loc_positive.tolist()
    np.testing.assert_allclose(found.cls_weights, cls_weights, atol=1e-6)
    np.testing.assert_allclose(found.loc_weights, loc_weights, atol=1e-6)
    assert found.iou_positive.tolist() == ((cls_labels > 0) | loc_positive).tolist()
    assert found.baseline_positive.tolist() == (assignment.labels == 1).tolist()
    assert found.num_cls_positive == (cls_labels > 0).sum() and found.num_loc_positive == loc_positive.sum()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0])
def test_mutual_targets_equal_equations_4_to_8(seed, alpha):
    case, config = random_case(seed), MLCConfig(alpha=alpha)
    found = task_targets(*case, config, mutual=True, first_label=1)
    check(case, found, config)
    # the case distinguishes the tasks from each other and from the baseline
    assert not torch.equal(found.cls_labels > 0, found.loc_positive)
    assert not torch.equal(found.cls_labels > 0, found.baseline_positive)
    tau_cls, tau_loc = found.thresholds
    members = case[0].candidate_gt == 2
    assert tau_cls[2].item() == np.float32(otsu(found.scores[members]))
    assert tau_loc[2].item() == np.float32(otsu(found.ious[members]))
    assert tau_cls[-1].isnan() and tau_loc[-1].isnan()  # no candidates


@pytest.mark.parametrize("seed", range(3))
def test_baseline_targets(seed):
    case = random_case(seed)
    assignment, logits, boxes, gt_boxes, gt_labels = case
    found = task_targets(*case, MLCConfig(), mutual=False, first_label=1)
    scores, ious = measured(*case)
    np.testing.assert_allclose(found.ious, ious, atol=1e-6)
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)
    for j, (label, k) in enumerate(zip(assignment.labels.tolist(), assignment.candidate_gt.tolist(), strict=True)):
        assert found.cls_labels[j] == (gt_labels[k] if label == 1 else label)
        assert found.cls_weights[j] == (label >= 0)
        assert found.loc_weights[j] == found.loc_positive[j] == found.iou_positive[j] == (label == 1)
        assert torch.equal(found.matched_boxes[j], gt_boxes[k] if k >= 0 else torch.zeros(4))
    assert found.thresholds is None


@pytest.mark.parametrize("degenerate", ["baseline", "literal"])
@pytest.mark.parametrize("task", ["scores", "ious", "both"])
def test_groups_that_cannot_be_split(task, degenerate):
    """gt 0: a task's values are all equal; gt 1 has one candidate; gt 2 none; gt 3 is ordinary."""
    gt = torch.tensor([0] * 6 + [1] + [3] * 6 + [-1])
    labels = torch.tensor([1, 1, -1, -1, 0, 1] + [1] + [1, 1, 0, -1, -1, 1] + [0], dtype=torch.int8)
    assignment = Assignment(labels=labels, candidate_gt=gt, originally_ignored=(labels < 0) & (gt >= 0))
    g = torch.Generator().manual_seed(0)
    gt_boxes = torch.tensor([[0.0, 0, 20, 20], [5, 5, 30, 30], [0, 0, 9, 9], [10, 10, 50, 50]])
    boxes = gt_boxes[gt.clamp(min=0)] + torch.rand(len(gt), 4, generator=g) * 5
    logits = torch.randn(len(gt), NUM_CLASSES, generator=g)
    if task != "ious":
        logits[:6] = 0.3
    if task != "scores":
        boxes[:6] = boxes[0]
    case = (assignment, logits, boxes, gt_boxes, torch.tensor([1, 2, 3, 4]))
    config = MLCConfig(alpha=0.5, degenerate=degenerate)
    found = task_targets(*case, config, mutual=True, first_label=1)
    check(case, found, config)
    keeps = degenerate == "baseline"
    assert (found.loc_positive[:6].sum() == 3 if keeps else found.loc_positive[:6].sum() == 0) or task == "ious"
    assert found.loc_positive[6] == keeps and (found.cls_labels[6] == 2) == keeps  # one candidate: gt 1


def test_all_overlaps_zero():
    """Early in training no decoded box need touch its gt: the classification keeps the baseline's positives."""
    case = list(random_case(7, num_empty=0))
    case[2] = case[2] + 1000
    found = task_targets(*case, MLCConfig(), mutual=True, first_label=1)
    assert (found.ious == 0).all()
    assert torch.equal(found.cls_labels > 0, case[0].labels == 1)
    assert found.num_loc_positive > 0  # scores still split


@pytest.mark.parametrize("mutual", [False, True])
def test_no_gts(mutual):
    assignment, logits, boxes, gt_boxes, gt_labels = random_case(0, num_gts=0)
    logits.requires_grad_(), boxes.requires_grad_()
    found = task_targets(assignment, logits, boxes, gt_boxes, gt_labels, MLCConfig(), mutual=mutual, first_label=1)
    assert torch.equal(found.cls_labels, assignment.labels.long()) and (assignment.labels == -1).any()
    assert found.cls_weights.tolist() == (assignment.labels == 0).tolist()
    assert not found.loc_positive.any() and not found.iou_positive.any() and not found.loc_weights.any()
    assert found.num_cls_positive == found.num_loc_positive == 0
    losses = mlc_losses(found, logits[:, 0], MLCConfig(alignment=1.0))
    sum(losses.values()).backward()
    assert all(v == 0 for v in losses.values()) and (logits.grad == 0).all()


def test_bins_are_those_of_the_histogram_rule():
    from skimage.filters import threshold_otsu

    found = task_targets(*random_case(3), MLCConfig(bins=256), mutual=True, first_label=1)
    members = random_case(3)[0].candidate_gt == 1
    expected = threshold_otsu(found.ious[members].numpy(), nbins=256)
    assert found.thresholds[1][1].item() == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("mutual", [False, True])
def test_gradients_only_through_scores_and_ious(mutual):
    assignment, logits, boxes, gt_boxes, gt_labels = random_case(1)
    logits.requires_grad_(), boxes.requires_grad_(), gt_boxes.requires_grad_()
    found = task_targets(
        assignment, logits, boxes, gt_boxes, gt_labels, MLCConfig(alpha=0.5), mutual=mutual, first_label=1
    )
    constants = [found.cls_labels, found.cls_weights, found.loc_weights, *(found.thresholds or ())]
    assert not any(c.requires_grad for c in constants)
    candidate = assignment.candidate_gt >= 0
    found.ious.sum().backward()
    assert logits.grad is None and (boxes.grad[~candidate] == 0).all() and boxes.grad[candidate].abs().sum() > 0
    boxes.grad = None
    found.scores.sum().backward()
    assert boxes.grad is None
    # only the column of the gt's class, only candidates
    column = (gt_labels[assignment.candidate_gt.clamp(min=0)] - 1)[:, None]
    own = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, column, candidate[:, None])
    assert (logits.grad[own] > 0).all() and (logits.grad[~own] == 0).all()


@pytest.mark.parametrize("degenerate", ["baseline", "literal"])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0])
def test_thresholds_at_the_midpoint(alpha, degenerate):
    """The labels of the lower threshold, weights by the distance to the middle; a group that cannot be split too."""
    assignment, logits, boxes, gt_boxes, gt_labels = random_case(7)
    members = assignment.candidate_gt == 1
    boxes[members] = gt_boxes[1]  # all IoUs are 1
    case = (assignment, logits, boxes, gt_boxes, gt_labels)
    config = MLCConfig(alpha=alpha, tau="midpoint", degenerate=degenerate)
    found = task_targets(*case, config, mutual=True, first_label=1)
    lower = task_targets(*case, MLCConfig(alpha=alpha, degenerate=degenerate), mutual=True, first_label=1)
    check(case, found, config)
    assert torch.equal(found.cls_labels, lower.cls_labels) and torch.equal(found.loc_positive, lower.loc_positive)
    assert torch.equal(found.cls_weights, lower.cls_weights) == (alpha == 0)
    assert (found.thresholds[1] > lower.thresholds[1]).tolist() == [True, False, True, True, True, False]


def test_the_baselines_positives_as_candidates():
    """What the baseline ignored stays ignored, its other negatives stay negatives: Eq. 4-6 among positives alone."""
    assignment, *rest = random_case(3)
    found = task_targets(assignment.positives_only(), *rest, MLCConfig(alpha=2.0), mutual=True, first_label=1)
    positive = assignment.labels == 1
    assert torch.equal(found.cls_labels[~positive], assignment.labels[~positive].long())
    assert not found.loc_positive[~positive].any()
    only = Assignment(
        assignment.labels, torch.where(positive, assignment.candidate_gt, -1), torch.zeros(len(positive)).bool()
    )
    check((only, *rest), found, MLCConfig(alpha=2.0))
    assert 0 < found.cls_labels[positive].gt(0).sum() < positive.sum()


@pytest.mark.parametrize("degenerate", ["baseline", "literal"])
@pytest.mark.parametrize("tau", ["lower", "midpoint"])
@pytest.mark.parametrize("min_gap", [0.2, 0.45, 2.0])
def test_groups_whose_classes_are_close_are_not_split(min_gap, tau, degenerate):
    case, seen = random_case(1, n=60), set()
    config = MLCConfig(alpha=0.5, min_gap=min_gap, tau=tau, degenerate=degenerate)
    found = task_targets(*case, config, mutual=True, first_label=1)
    check(case, found, config)
    for k in range(5):
        for values in (found.scores, found.ious):
            members = values[case[0].candidate_gt == k].numpy()
            cut = otsu(members)
            seen.add(bool(members[members > cut].mean() - members[members <= cut].mean() < min_gap))
    assert seen == {0.2: {False}, 0.45: {False, True}, 2.0: {True}}[min_gap]
    if min_gap == 2.0 and degenerate == "baseline":
        assert torch.equal(found.cls_labels > 0, found.baseline_positive)
    if min_gap == 0.2:
        off = dataclasses.replace(config, min_gap=0.0)
        plain = task_targets(*case, off, mutual=True, first_label=1)
        assert all(torch.equal(getattr(plain, key), getattr(found, key)) for key in ("cls_labels", "loc_weights"))


@pytest.mark.parametrize("min_gap", [0.0, 0.3])
@pytest.mark.parametrize("exponent", [0.0, 1.0, 6.0])
def test_one_cut_of_the_alignment_for_both_tasks(exponent, min_gap):
    case = random_case(3)
    config = MLCConfig(alpha=2.0, metric="alignment", alignment_exponent=exponent, min_gap=min_gap)
    found = task_targets(*case, config, mutual=True, first_label=1)
    check(case, found, config)
    if min_gap == 0:
        assert torch.equal(found.cls_labels > 0, found.loc_positive) and found.loc_positive.any()
    assert torch.equal(*(tau.nan_to_num(-1) for tau in found.thresholds))


def test_a_sampled_normalizer_replaces_the_count():
    found = task_targets(*random_case(2), MLCConfig(), mutual=True, first_label=1)
    logits = torch.randn(len(found.ious), generator=torch.Generator().manual_seed(0))
    plain = mlc_losses(found, logits, MLCConfig())["iou_rescoring"]
    sampled = dataclasses.replace(found, sampled_normalizer=torch.tensor(50.0))
    torch.testing.assert_close(
        mlc_losses(sampled, logits, MLCConfig())["iou_rescoring"] * 50, plain * found.iou_positive.sum()
    )


def test_the_iou_layer_starts_with_mutual_labeling_by_default():
    assert MLCConfig(start_epoch=7.5).rescoring_start == 7.5
    assert MLCConfig(start_epoch=7.5, iur_start_epoch=0).rescoring_start == 0
    assert MLCConfig(start_epoch=7.5, iur_start_epoch=9).rescoring_start == 9


def test_the_iou_layer_may_start_later():
    found = task_targets(*random_case(2), MLCConfig(), mutual=False, first_label=1)
    logits = torch.zeros(len(found.ious), requires_grad=True)
    loss = mlc_losses(found, logits, MLCConfig(), rescoring=False)["iou_rescoring"]
    loss.backward()
    assert loss == 0 and torch.equal(logits.grad, torch.zeros_like(logits))
    assert mlc_losses(found, logits, MLCConfig())["iou_rescoring"] > 0


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("mutual", [True, False])
def test_iou_rescoring_loss(mutual, detach):
    case = random_case(2)
    boxes = case[2].requires_grad_()
    config = MLCConfig(gamma=2.5, detach_iou_target=detach)
    found = task_targets(*case, config, mutual=mutual, first_label=1)
    logits = torch.randn(len(boxes), generator=torch.Generator().manual_seed(9)).requires_grad_()
    losses = mlc_losses(found, logits, config)
    assert list(losses) == ["iou_rescoring"]
    positive = found.cls_labels.gt(0) | found.loc_positive
    squares = [(torch.sigmoid(x) - i).item() ** 2 for x, i, p in zip(logits, found.ious, positive, strict=True) if p]
    assert losses["iou_rescoring"].item() == pytest.approx(2.5 * sum(squares) / len(squares), rel=1e-5)
    losses["iou_rescoring"].backward()
    assert (logits.grad[positive] != 0).all() and (logits.grad[~positive] == 0).all()
    assert (boxes.grad is None) if detach else (boxes.grad[positive].abs().sum() > 0)


def test_prediction_alignment_loss():
    case = random_case(4)
    case[1].requires_grad_(), case[2].requires_grad_()
    config = MLCConfig(ml=False, iur=False, alignment=3.0)
    found = task_targets(*case, config, mutual=True, first_label=1)  # baseline positives even so
    losses = mlc_losses(found, None, config)
    assert list(losses) == ["prediction_alignment"]
    positive = case[0].labels == 1
    expected = 3.0 * ((found.scores - found.ious)[positive] ** 2).mean()
    torch.testing.assert_close(losses["prediction_alignment"], expected)
    losses["prediction_alignment"].backward()
    for x in case[1:3]:
        assert (x.grad[~positive] == 0).all() and x.grad[positive].abs().sum() > 0


def test_nothing_on_means_no_losses_and_iur_needs_its_layer():
    found = task_targets(*random_case(0), MLCConfig(), mutual=False, first_label=1)
    assert mlc_losses(found, None, MLCConfig(ml=True, iur=False)) == {}
    with pytest.raises(ValueError, match="config.iur is on, but iou_logits is None"):
        mlc_losses(found, None, MLCConfig(iur=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_predictions_are_measured_in_float32(dtype):
    case = random_case(6)
    case = (case[0], case[1].to(dtype), *case[2:])
    found = task_targets(*case, MLCConfig(alpha=0.5), mutual=True, first_label=1)
    assert found.scores.dtype == found.ious.dtype == found.cls_weights.dtype == torch.float32
    check((case[0], case[1].float(), *case[2:]), found, MLCConfig(alpha=0.5))


@pytest.mark.parametrize("first_label", [0, 1, 7])
def test_labels_may_start_anywhere(first_label):
    """The same targets, and the same columns' scores, whatever the label of column 0 is."""
    *case, gt_labels = random_case(5)
    expected = task_targets(*case, gt_labels, MLCConfig(alpha=0.5), mutual=True, first_label=1)
    shifted = gt_labels - 1 + first_label
    found = task_targets(*case, shifted, MLCConfig(alpha=0.5), mutual=True, first_label=first_label)
    assert torch.equal(found.cls_labels, expected.cls_labels) and torch.equal(found.scores, expected.scores)
    positive = found.cls_labels > 0
    assert torch.equal(found.cls_labels[positive] - 1, gt_labels[case[0].candidate_gt[positive]] - 1)


def test_first_label_must_be_given():
    with pytest.raises(TypeError, match="first_label"):
        task_targets(*random_case(0), MLCConfig(), mutual=True)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"gt_labels": torch.tensor([1, 5])}, ValueError, r"in 1..4 \(4 class columns and first_label=1\), got 5"),
        ({"gt_labels": torch.tensor([0, 4])}, ValueError, r"in 1..4 \(4 class columns and first_label=1\), got 0"),
        ({"gt_labels": torch.tensor([1, 4]), "first_label": 0}, ValueError, r"in 0..3 .* first_label=0\), got 4"),
        ({"gt_labels": torch.tensor([1, 2]).int()}, TypeError, "gt_labels must be int64, got torch.int32"),
        ({"gt_labels": torch.tensor([1])}, ValueError, r"gt_boxes must have .* got \[2, 4\] and \[1\]"),
        (
            {"boxes": torch.zeros(20, 4).half()},
            TypeError,
            "must be float32 or float64, got torch.float16. Decode",
        ),
        ({"boxes": torch.zeros(20, 4).bfloat16()}, TypeError, "got torch.bfloat16. Decode them in float32"),
        ({"boxes": torch.zeros(19, 4)}, ValueError, r"boxes must have shape \[20, 4\] .* got \[19, 4\]"),
        ({"cls_logits": torch.zeros(20)}, ValueError, r"cls_logits must have shape \[20, C\], got \[20\]"),
        ({"gt_boxes": None}, TypeError, "gt_boxes must be a Tensor, got NoneType"),
    ],
)
@pytest.mark.parametrize("mutual", [True, False])
def test_wrong_inputs(change, error, text, mutual):
    names = ("assignment", "cls_logits", "boxes", "gt_boxes", "gt_labels")
    inputs = dict(zip(names, random_case(0, n=20, num_gts=2), strict=True)) | {"first_label": 1} | change
    with pytest.raises(error, match=f"^task_targets: .*{text}"):
        task_targets(**inputs, config=MLCConfig(), mutual=mutual)


@pytest.mark.parametrize(("detector", "alpha"), [("fcos-", 0), ("fcos", 0), ("retinanet", 0.5), ("rpn", 2)])
def test_the_papers_settings(detector, alpha):
    config = MLCConfig.paper(detector)
    assert config.alpha == alpha and config.start_epoch == 12 and config.ml and config.iur
    assert MLCConfig.paper(detector, iur=False, alpha=1.0) == dataclasses.replace(config, iur=False, alpha=1.0)
    with pytest.raises(ValueError, match="start_epoch must not be negative"):
        MLCConfig.paper(detector, start_epoch=-1)


def test_settings_of_an_unknown_detector():
    text = "MLCConfig.paper: detector must be one of 'fcos-', 'fcos', 'retinanet', 'rpn', got 'atss'"
    with pytest.raises(ValueError, match=text):
        MLCConfig.paper("atss")


def test_defaults_are_the_papers():
    config = MLCConfig()
    assert (config.ml, config.iur, config.start_epoch, config.alpha, config.gamma) == (True, True, 12, 0.0, 1.0)
    assert config.bins is None and config.degenerate == "baseline" and config.alignment == 0
    assert config.detach_iou_target and config.tau == "lower" and config.rescoring_start == config.start_epoch
    assert (config.candidates, config.metric, config.min_gap) == (None, "crossed", 0)
    assert (
        config.candidates_of("all") == "all" and MLCConfig(candidates="positives").candidates_of("all") == "positives"
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.alpha = 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"degenerate": "paper"}, "degenerate must be one of 'baseline', 'literal', got 'paper'"),
        ({"start_epoch": -1}, "start_epoch must not be negative, got -1"),
        ({"alpha": -0.5}, "alpha must not be negative, got -0.5"),
        ({"gamma": float("nan")}, "gamma must be finite, got nan"),
        ({"alignment": -1.0}, "alignment must not be negative, got -1.0"),
        ({"bins": 1}, r"bins must be in \[2, 65536\] or None, got 1"),
        ({"iur_start_epoch": -2}, "iur_start_epoch must not be negative, got -2"),
        ({"candidates": "some"}, "candidates must be one of None, 'positives', 'own_levels', 'all', got 'some'"),
        ({"metric": "paper"}, "metric must be one of 'crossed', 'alignment', got 'paper'"),
        ({"min_gap": -0.1}, "min_gap must not be negative, got -0.1"),
        ({"alignment_exponent": -6.0}, "alignment_exponent must not be negative, got -6.0"),
        ({"tau": "upper"}, "tau must be one of 'lower', 'midpoint', got 'upper'"),
        ({"tau": "midpoint", "bins": 256}, "tau='midpoint' is for exact thresholds"),
        ({"bins": 65537}, r"bins must be in \[2, 65536\] or None, got 65537"),
    ],
)
def test_settings_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        MLCConfig(**options)
