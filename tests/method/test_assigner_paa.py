"""PAAAssigner and its mixture against the rule gt by gt, scikit-learn's recorded fits and MMDetection's assignments."""

import json
import math
from pathlib import Path

import pytest
import torch
from assigner_cases import images_of, iou_of, random_batch, recorded, recorded_maps

from mlc_ext import MaxIoUAssigner, PAAAssigner, Predictions, paired_box_iou
from mlc_ext.assigners import _mixture
from mlc_ext.assigners._mixture import fit_mixture

SKLEARN = json.loads((Path(__file__).parent / "mixtures.json").read_text())
"""Fits of scikit-learn 1.9.1's GaussianMixture(2, covariance_type="diag") from weights 0.5, the least and the largest
value as means, and precisions 1."""


def padded(cases):
    n = max(len(case["values"]) for case in cases)
    values = torch.full((len(cases), n), float("nan"), dtype=torch.float64)
    for row, case in zip(values, cases, strict=True):
        row[: len(case["values"])] = torch.tensor(case["values"], dtype=torch.float64)
    return values, ~values.isnan()


def test_mixture_equals_scikit_learn():
    mixture = fit_mixture(*padded(SKLEARN))
    for i, case in enumerate(SKLEARN):
        n = len(case["values"])
        for name in ("weights", "means", "variances"):
            expected = torch.tensor(case[name], dtype=torch.float64)
            torch.testing.assert_close(getattr(mixture, name)[i], expected, rtol=1e-6, atol=1e-9)
        assert mixture.component[i, :n].tolist() == case["component"]
        expected = torch.tensor(case["log_likelihood"], dtype=torch.float64)
        torch.testing.assert_close(mixture.log_likelihood[i, :n], expected, rtol=1e-6, atol=1e-5)


def test_a_group_is_fitted_alike_alone_and_in_a_batch():
    values, valid = padded(SKLEARN)
    together = fit_mixture(values, valid)
    for i in range(len(values)):
        alone = fit_mixture(values[i : i + 1], valid[i : i + 1])
        torch.testing.assert_close(alone.means[0], together.means[i], rtol=1e-9, atol=1e-12)


def test_steps_end_with_a_limit(monkeypatch):
    monkeypatch.setattr(_mixture, "TOLERANCE", -1.0)
    steps, joint = [], _mixture._log_joint
    monkeypatch.setattr(_mixture, "_log_joint", lambda *inputs: steps.append(1) or joint(*inputs))
    values = torch.rand(3, 20, generator=torch.Generator().manual_seed(0)) * 3
    found = fit_mixture(values, torch.ones_like(values, dtype=torch.bool))
    assert len(steps) == 100 + 1 and found.means.isfinite().all()  # and once for the result


@pytest.mark.parametrize("scale", [3.0, 30.0, 90.0, 300.0])
def test_losses_of_saturated_logits(scale):
    """The focal loss and the GIoU loss in float64; a loss is never negative, so that the metric is in (0, 1]."""
    g = torch.Generator().manual_seed(1)
    logits = torch.randn(200, 5, generator=g) * scale
    gts = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 30.0, 20.0]])
    gt = torch.randint(0, 2, (200,), generator=g)
    columns = torch.tensor([1, 4])
    found = PAAAssigner(first_label=0).losses(logits, gts[gt], gts, columns, gt)
    own = torch.nn.functional.one_hot(columns[gt], 5).bool()
    z = torch.where(own, -logits, logits).double()
    expected = z.sigmoid() ** 2 * torch.nn.functional.softplus(z) * torch.where(own, 0.25, 0.75)
    torch.testing.assert_close(found.double(), expected.sum(1), rtol=1e-5, atol=1e-5)
    assert (found >= 0).all()


def mixture_slowly(x):
    """-> (component, log-likelihood) of each value of a sorted list."""
    weights, means, variances, before = [0.5, 0.5], [x[0], x[-1]], [1.0, 1.0], -math.inf

    def densities(v):
        return [
            w * math.exp(-((v - m) ** 2) / (2 * s)) / math.sqrt(2 * math.pi * s)
            for w, m, s in zip(weights, means, variances, strict=True)
        ]

    for _ in range(100):
        parts = [densities(v) for v in x]
        bound = sum(math.log(sum(p)) for p in parts) / len(x)
        shares = [[p / sum(of) for p in of] for of in parts]
        mass = [sum(of[c] for of in shares) + 1e-15 for c in range(2)]
        means = [sum(of[c] * v for of, v in zip(shares, x, strict=True)) / mass[c] for c in range(2)]
        variances = [
            sum(of[c] * v * v for of, v in zip(shares, x, strict=True)) / mass[c] - means[c] ** 2 + 1e-6
            for c in range(2)
        ]
        weights = [m / sum(mass) for m in mass]
        if abs(bound - before) < 1e-3:
            break
        before = bound
    parts = [densities(v) for v in x]
    return [int(p[1] > p[0]) for p in parts], [math.log(sum(p)) for p in parts]


def giou_of(a, b):
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    iou, areas = iou_of(a, b), [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    union = sum(areas) / (1 + iou)
    return iou - (hull - union) / hull


def loss_of(scores, label, box, gt):
    focal = -sum(0.75 * s**2 * math.log(1 - s) for c, s in enumerate(scores) if c != label)
    return focal - 0.25 * (1 - scores[label]) ** 2 * math.log(scores[label]) + 1.3 * (1 - giou_of(box, gt))


def assign_slowly(levels, targets, predictions, topk=9):
    """-> the positives and the candidates of each image: {prior: gt of the batch}."""
    matched = MaxIoUAssigner(high=0.1, low=0.1)(levels, targets)
    num_priors = sum(len(level) for level in levels)
    ends = [sum(len(level) for level in levels[: n + 1]) for n in range(len(levels))]
    positives, candidates = {}, {}
    for image, (offset, boxes, labels, _, scores, predicted) in enumerate(images_of(targets, predictions)):
        start = image * num_priors
        for k, box in enumerate(boxes):
            own = [
                (i, loss_of(scores[i], labels[k], predicted[i], box))
                for i in range(num_priors)
                if matched.labels[start + i] == 1 and matched.candidate_gt[start + i] == offset + k
            ]
            entered = []
            for low, high in zip([0, *ends], ends, strict=False):
                entered += sorted((pair for pair in own if low <= pair[0] < high), key=lambda pair: pair[1])[:topk]
            entered.sort(key=lambda pair: pair[1])
            candidates |= {start + i: offset + k for i, _ in entered}
            if len(entered) < 2:
                continue
            component, likelihood = mixture_slowly([loss for _, loss in entered])
            low = [n for n in range(len(entered)) if component[n] == 0]
            if low:
                last = max(low, key=lambda n: likelihood[n])
                positives |= {start + entered[n][0]: offset + k for n in low if n <= last}
    return matched, positives, candidates


@pytest.mark.parametrize("seed", range(2))
def test_equals_the_rule_gt_by_gt(seed):
    anchors, _, targets, predictions = random_batch(seed)
    found = PAAAssigner(first_label=0)(anchors, targets, predictions)
    matched, positives, candidates = assign_slowly(anchors, targets, predictions)
    expected = torch.full_like(found.candidate_gt, -1)
    for prior, gt in positives.items():
        expected[prior] = gt
    assert torch.equal(found.candidate_gt, expected) and torch.equal(found.labels == 1, expected >= 0)
    assert torch.equal(found.labels == -1, matched.labels == -1) and (found.labels == -1).any()
    everything = PAAAssigner(first_label=0, candidates="all")(anchors, targets, predictions)
    assert torch.equal(everything.labels, found.labels)
    assert set((everything.candidate_gt >= 0).nonzero().flatten().tolist()) == set(candidates)
    assert all(everything.candidate_gt[prior] == gt for prior, gt in candidates.items())


def recorded_predictions(golden, anchors):
    """Boxes decoded as Faster R-CNN's, of deltas with standard deviations 0.1 and 0.2."""
    anchors = torch.cat(anchors)
    deltas = recorded_maps(golden, "reg") * torch.tensor([0.1, 0.1, 0.2, 0.2])
    size = anchors[:, 2:] - anchors[:, :2]
    center = (anchors[:, :2] + anchors[:, 2:]) / 2 + deltas[..., :2] * size
    half = size * deltas[..., 2:].exp() / 2
    return Predictions(recorded_maps(golden, "cls"), torch.cat((center - half, center + half), -1))


def test_golden_candidates_and_losses():
    for golden, anchors, _, targets, _ in recorded("paa"):
        predictions = recorded_predictions(golden, anchors)
        matched = MaxIoUAssigner(high=0.1, low=0.1)(anchors, targets)
        offset, num_priors = 0, len(golden["anchors"])
        for i, target in enumerate(targets):
            own = slice(i * num_priors, (i + 1) * num_priors)
            index, gt = golden[f"candidate_{i}"], golden[f"candidate_gt_{i}"]
            assert torch.equal((matched.labels[own] == 1).nonzero().flatten(), index.sort().values)
            assert torch.equal(matched.candidate_gt[own][index], gt + offset)
            offset += len(target["boxes"])
            inputs = predictions.cls_logits[i], predictions.boxes[i], target["boxes"], target["labels"], gt, index
            if len(index) > 0:
                losses = PAAAssigner(first_label=0).losses(*inputs)
                torch.testing.assert_close(losses, golden[f"candidate_loss_{i}"], rtol=1e-5, atol=1e-5)


def test_golden_labels():
    for golden, anchors, _, targets, _ in recorded("paa"):
        found = PAAAssigner(first_label=0)(anchors, targets, recorded_predictions(golden, anchors))
        columns = torch.cat([target["labels"] for target in targets])
        classes = torch.where(found.labels == 1, columns[found.candidate_gt], golden["num_classes"])
        assert torch.equal(classes, torch.cat([golden["label_0"], golden["label_1"]]))
        weights = torch.cat([golden["label_weight_0"], golden["label_weight_1"]])
        assert torch.equal(found.labels != -1, weights > 0)


def test_golden_losses():
    """PAA's losses, made of the assignment: its positives and their IoUs are the recorded ones."""
    for golden, anchors, _, targets, _ in recorded("paa"):
        predictions = recorded_predictions(golden, anchors)
        found = PAAAssigner(first_label=0)(anchors, targets, predictions)
        positive = found.labels == 1
        boxes, gts = predictions.boxes.flatten(0, 1)[positive], torch.cat([t["boxes"] for t in targets])
        gts = gts[found.candidate_gt[positive]]
        iou = paired_box_iou(boxes, gts)
        giou_loss = (iou * (1 - paired_box_iou(boxes, gts, kind="giou"))).sum() / iou.sum() * 1.3
        assert giou_loss.item() == pytest.approx(golden["loss_bbox"].item(), rel=1e-4)
        logits = recorded_maps(golden, "iou").flatten(0, 1)[positive, 0]
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, iou) * 0.5
        assert entropy.item() == pytest.approx(golden["loss_iou"].item(), rel=1e-4)


def test_a_gt_with_one_anchor_has_no_positive():
    anchors = [torch.tensor([[0.0, 0, 64, 64], [200, 200, 264, 264]])]
    targets = [{"boxes": torch.tensor([[0.0, 0, 60, 60]]), "labels": torch.tensor([1])}]
    predictions = Predictions(torch.zeros(1, 2, 3), anchors[0][None])
    found = PAAAssigner(first_label=0, candidates="all")(anchors, targets, predictions)
    assert found.labels.tolist() == [0, 0] and found.candidate_gt.tolist() == [0, -1]
    assert found.originally_ignored.tolist() == [True, False]
