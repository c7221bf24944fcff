"""AutoAssignCriterion against the loss written point by point, its gradients, and MMDetection's recorded losses."""

import math

import pytest
import torch
from assigner_cases import STRIDES, center_of, images_of, iou_of, lies_inside, random_batch, recorded, recorded_maps
from test_assigner_paa import giou_of

from mlc_ext import AutoAssignCriterion, Predictions
from mlc_ext.assigners._negative_loss import NegativeLoss


def make_criterion(num_classes=5, seed=0, **options):
    g = torch.Generator().manual_seed(seed)
    criterion = AutoAssignCriterion(num_classes, first_label=0, **options)
    criterion.mean.data = torch.randn(num_classes, 2, generator=g) * 0.3
    criterion.sigma.data = 0.7 + torch.rand(num_classes, 2, generator=g)
    return criterion


def losses_slowly(criterion, levels, targets, predictions):
    points = [tuple(p) for level in levels for p in level.tolist()]
    strides = [s for level, s in zip(levels, STRIDES, strict=True) for _ in level]
    mean, sigma = criterion.mean.tolist(), criterion.sigma.tolist()
    objectness = predictions.objectness_logits.sigmoid().tolist()
    positive = negative = mass = center = 0.0
    for image, (_, boxes, labels, crowd, scores, predicted) in enumerate(images_of(targets, predictions)):
        joint = [[s * o for s in of] for of, o in zip(scores, objectness[image], strict=True)]
        weights = [[1.0] * len(mean) for _ in points]
        of_image = 0.0
        for box, label in zip(boxes, labels, strict=True):
            inside = [i for i, p in enumerate(points) if lies_inside(p, box)]
            total = sum_of_weights = 0.0
            for i in inside:
                exponents = [
                    ((points[i][d] - center_of(box)[d]) / strides[i] - mean[label][d]) ** 2 / (2 * sigma[label][d] ** 2)
                    for d in range(2)
                ]
                prior = math.exp(-sum(exponents))
                confidence = joint[i][label] * math.exp(-5 * (1 - giou_of(predicted[i], box)))
                weight = math.exp(3 * confidence) * prior
                total, sum_of_weights, of_image = total + weight * confidence, sum_of_weights + weight, of_image + prior
            positive += min(100.0, -math.log(max(total / max(sum_of_weights, 1e-12), 1e-44)))
            sharp = {i: 1 / (1 - max(iou_of(predicted[i], b) for b in boxes)) for i in inside}
            for i in inside:
                low, high = min(sharp.values()), max(sharp.values())
                weights[i][label] = 1 - (sharp[i] - low + 1e-12) / (high - low + 1e-12)
        for i, p in enumerate(points):
            if any(lies_inside(p, c) for c in crowd) and not any(lies_inside(p, b) for b in boxes):
                continue
            for q in (j * w for j, w in zip(joint[i], weights[i], strict=True)):
                negative -= q * q * math.log(1 - q)
        mass += of_image
        center += len(boxes) / of_image / len(targets) if boxes else 0.0
    num_gts = sum(len(t["boxes"]) for t in targets)
    return {
        "positive": 0.25 * positive / max(1, num_gts),
        "negative": 0.75 * negative / max(1.0, mass),
        "center": 0.75 * center,
    }


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_loss_point_by_point(seed):
    _, points, targets, predictions = random_batch(seed)
    criterion = make_criterion(seed=seed)
    found = criterion(points, targets, predictions)
    expected = losses_slowly(criterion, points, targets, predictions)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-4), name


def test_golden_losses():
    for golden, _, points, targets, _ in recorded("autoassign"):
        points = [p - stride / 2 for p, stride in zip(points, STRIDES, strict=True)]  # recorded with offset 0
        all_points, sides = torch.cat(points), recorded_maps(golden, "reg")
        boxes = torch.cat((all_points - sides[..., :2], all_points + sides[..., 2:]), -1)
        predictions = Predictions(recorded_maps(golden, "cls"), boxes, recorded_maps(golden, "obj")[..., 0])
        criterion = make_criterion(int(golden["num_classes"]))
        criterion.mean.data, criterion.sigma.data = golden["prior_mean"], golden["prior_sigma"]
        found = criterion(points, targets, predictions)
        for ours, theirs in {"positive": "pos", "negative": "neg", "center": "center"}.items():
            assert found[ours].item() == pytest.approx(golden[f"loss_{theirs}"].item(), rel=1e-5), ours


def leaves_of(predictions):
    values = (predictions.cls_logits, predictions.boxes, predictions.objectness_logits)
    return [value.clone().requires_grad_() for value in values]


def gradients(criterion, points, targets, predictions):
    leaves = leaves_of(predictions)
    losses = criterion(points, targets, Predictions(*leaves))
    return losses, torch.autograd.grad(sum(losses.values()), [*leaves, *criterion.parameters()])


@pytest.mark.parametrize("of", range(5), ids=["logits", "boxes", "objectness", "mean", "sigma"])
def test_gradients_are_the_slopes_along_them(of):
    _, points, targets, predictions = random_batch(1)
    criterion = make_criterion()

    def total():
        losses = criterion(points, targets, Predictions(*leaves))
        if of not in (0, 2):  # boxes weight the negatives, and the prior divides them, as constants
            losses.pop("negative")
        return sum(losses.values())

    leaves = leaves_of(predictions)
    tensor = [*leaves, *criterion.parameters()][of]
    (grad,) = torch.autograd.grad(total(), tensor)
    step, around = 0.03 / grad.norm().item(), []
    with torch.no_grad():
        for move in (step, -2 * step):
            tensor += move * grad
            around.append(total().item())
    slope = (around[0] - around[1]) / (2 * step)
    assert slope == pytest.approx(grad.pow(2).sum().item(), rel=0.02)


def test_negative_loss_and_its_gradient():
    g = torch.Generator().manual_seed(0)
    logits, objectness = (torch.randn(7, 3, generator=g).double(), torch.randn(7, generator=g).double())
    weights = torch.rand(7, 3, generator=g).double()
    leaves = [logits.requires_grad_(), objectness.requires_grad_()]
    q = logits.sigmoid() * objectness.sigmoid()[:, None] * weights
    expected = -(q**2 * (1 - q).log()).sum()
    torch.testing.assert_close(NegativeLoss.apply(*leaves, weights), expected)
    assert torch.autograd.gradcheck(lambda a, b: NegativeLoss.apply(a, b, weights), leaves)


def test_saturated_scores_have_finite_gradients():
    _, points, targets, predictions = random_batch(1)
    predictions.cls_logits.fill_(60.0)
    predictions.objectness_logits.fill_(60.0)
    losses, grads = gradients(make_criterion(), points, targets, predictions)
    assert all(value.isfinite() for value in losses.values()) and all(grad.isfinite().all() for grad in grads)


def test_without_gts_every_parameter_still_has_a_gradient():
    _, points, targets, predictions = random_batch(0, counts=((0, 0), (0, 1)))
    losses, grads = gradients(make_criterion(), points, targets, predictions)
    assert losses["positive"] == 0 and losses["center"] == 0 and losses["negative"] > 0
    assert grads[0].abs().sum() > 0 and all((grad == 0).all() for grad in (grads[1], *grads[3:]))


def test_the_form_without_selection_is_the_same(monkeypatch):
    """What a GPU computes: all pairs with a mask, the positive part again in the backward pass."""
    _, points, targets, predictions = random_batch(2, counts=((70, 2), (0, 0), (3, 0)))
    criterion = make_criterion()
    losses, grads = gradients(criterion, points, targets, predictions)
    for module in ("_inputs", "_selection", "auto_assign"):
        monkeypatch.setattr(f"mlc_ext.assigners.{module}.on_host", lambda x: False)
    dense_losses, dense_grads = gradients(criterion, points, targets, predictions)
    torch.testing.assert_close(dense_losses, losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(dense_grads, grads, rtol=1e-4, atol=1e-6)


def test_objectness_is_needed():
    _, points, targets, predictions = random_batch(0)
    with pytest.raises(ValueError, match="objectness_logits are needed"):
        make_criterion()(points, targets, Predictions(predictions.cls_logits, predictions.boxes))


def test_objectness_of_another_shape():
    _, points, targets, predictions = random_batch(2)
    objectness = predictions.objectness_logits[..., None]
    predictions = Predictions(predictions.cls_logits, predictions.boxes, objectness)
    with pytest.raises(ValueError, match="objectness_logits must have shape"):
        make_criterion()(points, targets, predictions)


def test_an_infinite_box_far_from_the_gts_is_no_nan():
    _, points, targets, predictions = random_batch(2, counts=((3, 0), (0, 0)))
    boxes = predictions.boxes.clone()
    boxes[1, 0] = torch.tensor([0.0, 0.0, float("inf"), 1.0])
    made = Predictions(predictions.cls_logits, boxes, predictions.objectness_logits)
    assert all(loss.isfinite() for loss in make_criterion()(points, targets, made).values())
