import math
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from golden import load_golden
from hypothesis import given, settings
from hypothesis import strategies as st

from mlc_ext import losses, paired_box_iou

seeds = st.integers(0, 2**31)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def random_boxes(n, g, dtype=torch.float64):
    corner = torch.rand(n, 2, generator=g, dtype=dtype) * 10
    return torch.cat((corner, corner + 5 + torch.rand(n, 2, generator=g, dtype=dtype) * 5), dim=1)


def random_focal_case(n, c, g, dtype=torch.float64):
    logits = torch.randn(n, c, generator=g, dtype=dtype) * 4
    labels = torch.randint(-1, c + 1, (n,), generator=g)
    return logits, labels, torch.rand(n, generator=g, dtype=dtype)


def focal_by_definition(logits, labels, weights, alpha=0.25, gamma=2.0):
    """torchvision's: alpha_t (1 - p_t)^gamma BCE(logit, one-hot target)."""
    counted = labels >= 0
    target = F.one_hot(labels.clamp(min=0), logits.shape[1] + 1)[:, 1:].to(logits)
    p = logits.sigmoid()
    p_t = p * target + (1 - p) * (1 - target)
    alpha_t = alpha * target + (1 - alpha) * (1 - target)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    loss = (alpha_t * (1 - p_t) ** gamma * cross_entropy).sum(1)
    return (loss * weights * counted).sum()


def vectors(n, g, dtype=torch.float64):
    return torch.randn(n, generator=g, dtype=dtype) * 3, torch.rand(n, generator=g, dtype=dtype)


def probabilities(n, g, dtype=torch.float64):
    return torch.rand(n, generator=g, dtype=dtype), torch.rand(n, generator=g, dtype=dtype)


def box_pairs(n, g, dtype=torch.float64):
    return random_boxes(n, g, dtype), random_boxes(n, g, dtype)


def iou_loss_of(kind):
    return lambda p, t, w=None: losses.iou_loss(p, t, w, kind=kind)


def undetached_rescoring(p, t, w=None):
    return losses.iou_rescoring_loss(p, t, w, detach_target=False)


# The loss as f(predictions, targets, weights), the maker of N rows of both, whether targets get a gradient.
CASES = {
    "iou": (iou_loss_of("iou"), box_pairs, False),
    "linear_iou": (iou_loss_of("linear_iou"), box_pairs, False),
    "giou": (iou_loss_of("giou"), box_pairs, False),
    "l1": (losses.l1_loss, box_pairs, False),
    "smooth_l1": (lambda p, t, w=None: losses.smooth_l1(p, t, w, beta=2.0), box_pairs, False),
    "bce": (losses.binary_cross_entropy_loss, vectors, False),
    "centerness": (losses.centerness_loss, vectors, False),
    "iou_rescoring": (losses.iou_rescoring_loss, vectors, False),
    "iou_rescoring_undetached": (undetached_rescoring, vectors, True),
    "alignment": (losses.prediction_alignment_loss, probabilities, True),
}
every_loss = pytest.mark.parametrize(("loss", "make", "target_gradient"), CASES.values(), ids=CASES.keys())


@every_loss
def test_gradients(loss, make, target_gradient):
    g = rng()
    predictions, targets = (t.requires_grad_() for t in make(12, g))
    weights = torch.rand(12, generator=g, dtype=torch.float64) * (torch.arange(12) % 3 > 0)
    if target_gradient:
        assert torch.autograd.gradcheck(lambda p, t: loss(p, t, weights), (predictions, targets))
    else:
        assert torch.autograd.gradcheck(lambda p: loss(p, targets, weights), (predictions,))
        assert torch.autograd.grad(loss(predictions, targets), targets, allow_unused=True) == (None,)


@every_loss
def test_weights_select_and_scale(loss, make, target_gradient):
    g = rng(1)
    predictions, targets = make(9, g)
    weights = torch.rand(9, generator=g, dtype=torch.float64)
    singly = torch.stack([loss(predictions[i : i + 1], targets[i : i + 1]) for i in range(9)])
    assert singly.min() > 0
    torch.testing.assert_close(loss(predictions, targets, weights), (singly * weights).sum())
    torch.testing.assert_close(loss(predictions, targets), singly.sum())
    mask = weights > 0.5
    assert 0 < mask.sum() < 9
    torch.testing.assert_close(loss(predictions, targets, mask), singly[mask].sum())


@every_loss
def test_unselected_rows_may_hold_anything(loss, make, target_gradient):
    predictions, targets = make(6, rng(2))
    mask = torch.tensor([True, False, True, False, True, False])
    want = loss(predictions[mask], targets[mask])
    for value in (math.inf, -math.inf, math.nan):
        bad_predictions, bad_targets = predictions.clone(), targets.clone()
        bad_predictions[1], bad_predictions[3], bad_targets[3], bad_targets[5] = value, value, value, value
        bad_predictions.requires_grad_()
        got = loss(bad_predictions, bad_targets, mask)
        torch.testing.assert_close(got, want)
        (gradient,) = torch.autograd.grad(got, bad_predictions)
        assert (gradient[~mask] == 0).all() and (gradient[mask].abs() > 0).any()


@every_loss
def test_nothing_to_learn_from_is_zero_with_a_gradient(loss, make, target_gradient):
    for n, mask in ((0, None), (0, torch.zeros(0)), (4, torch.zeros(4, dtype=torch.bool))):
        predictions, targets = make(n, rng(), torch.float32)
        predictions.requires_grad_()
        total = loss(predictions, targets, mask)
        assert total.shape == () and total.item() == 0
        total.backward()
        assert predictions.grad.shape == predictions.shape and not predictions.grad.any()


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_is_computed_in_float32(loss, make, target_gradient, dtype, autocast):
    predictions, targets = (t.to(dtype) for t in make(500, rng(3)))
    want = loss(predictions.double(), targets.double())
    for given_targets in (targets, targets.float()):  # a head in half against targets in float32
        half = predictions.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            total = loss(half, given_targets)
        assert total.dtype == torch.float32
        torch.testing.assert_close(total.double(), want, rtol=1e-5, atol=0)
        total.backward()
        assert half.grad.dtype == dtype and half.grad.isfinite().all()


@every_loss
def test_shapes_that_disagree(loss, make, target_gradient):
    predictions, targets = make(5, rng())
    with pytest.raises(ValueError, match=r"must have shape \[5.*got \[4"):
        loss(predictions, targets[:4])
    with pytest.raises(ValueError, match=r"weights must have shape \[5\], got \[5, 1\]"):
        loss(predictions, targets, torch.ones(5, 1))
    with pytest.raises(ValueError, match=r"must have shape \[N.*got \[5, "):
        loss(predictions[..., None], targets[..., None])
    with pytest.raises(TypeError, match="floating point, got torch.int64"):
        loss(predictions, targets.long())


@settings(deadline=None, max_examples=40)
@given(seeds, st.integers(0, 12), st.integers(1, 6), st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0, 2.0]))
def test_focal_is_torchvisions(seed, n, c, alpha, gamma):
    logits, labels, weights = random_focal_case(n, c, rng(seed))
    logits.requires_grad_()
    want = focal_by_definition(logits, labels, weights, alpha, gamma)
    got = losses.sigmoid_focal_loss(logits, labels, weights, alpha, gamma)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    for pair in zip(torch.autograd.grad(got, logits), torch.autograd.grad(want, logits), strict=True):
        torch.testing.assert_close(*pair, rtol=1e-11, atol=1e-12)


def test_focal_gradients():
    logits, labels, weights = random_focal_case(10, 4, rng())
    logits.requires_grad_()
    for gamma in (0.0, 0.5, 2.0):
        assert torch.autograd.gradcheck(
            lambda x, gamma=gamma: losses.sigmoid_focal_loss(x, labels, weights, 0.3, gamma), (logits,)
        )
    # A scaled loss, as under GradScaler or gamma * L: the incoming gradient is not 1.
    (plain,) = torch.autograd.grad(losses.sigmoid_focal_loss(logits, labels), logits)
    (scaled,) = torch.autograd.grad(1024 * losses.sigmoid_focal_loss(logits, labels), logits)
    torch.testing.assert_close(scaled, 1024 * plain)


def test_focal_of_extreme_logits():
    """float32 against float64, out to where a naive log(sigmoid) is infinite; half against float32."""
    extremes = torch.tensor([0.0, 1e-8, 15.0, 20.0, 21.0, 60.0, 88.0, 104.0, 500.0, 3e4])
    column = torch.cat((extremes, -extremes))[:, None]
    for label in (0, 1):
        labels = torch.full((1,), label)
        for x in column:
            single, double = x[None].requires_grad_(), x[None].double().detach().requires_grad_()
            got, want = losses.sigmoid_focal_loss(single, labels), losses.sigmoid_focal_loss(double, labels)
            torch.testing.assert_close(got.double(), want, rtol=2e-6, atol=1e-37)
            (slope,) = torch.autograd.grad(got, single)
            (want_slope,) = torch.autograd.grad(want, double)
            torch.testing.assert_close(slope.double(), want_slope, rtol=1e-5, atol=1e-37)
    exact = 0.5 * (25 + math.log1p(math.exp(-25)))  # torch's softplus is linear from 20 on
    x = torch.tensor([[25.0]], dtype=torch.float64)
    got = losses.sigmoid_focal_loss(x, torch.tensor([0]), alpha=0.5, gamma=0.0)
    assert got.item() == pytest.approx(exact, rel=1e-15, abs=0)
    labels = torch.ones(column.shape[0], dtype=torch.int64)
    for dtype in (torch.float16, torch.bfloat16):
        half = column.to(dtype).requires_grad_()
        total = losses.sigmoid_focal_loss(half, labels)
        assert total.dtype == torch.float32
        torch.testing.assert_close(total, losses.sigmoid_focal_loss(half.float(), labels), rtol=0, atol=0)
        total.backward()
        assert half.grad.dtype == dtype and half.grad.isfinite().all()


def test_focal_ignores_and_leaves_its_inputs_alone():
    logits, labels, weights = random_focal_case(30, 3, rng(5), torch.float32)
    assert {-1, 0, 1} <= set(labels.tolist())
    counted = labels >= 0
    want = losses.sigmoid_focal_loss(logits[counted], labels[counted], weights[counted])
    bad = logits.masked_fill(~counted[:, None], math.inf).requires_grad_()
    before = [t.detach().clone() for t in (bad, labels, weights)]
    total = losses.sigmoid_focal_loss(bad, labels, weights.masked_fill(~counted, math.nan))
    torch.testing.assert_close(total, want)
    total.backward()
    assert (bad.grad[~counted] == 0).all() and (bad.grad[counted] != 0).all()
    for now, then in zip((bad, labels, weights), before, strict=True):
        assert torch.equal(now, then)
    with torch.no_grad():
        losses.sigmoid_focal_loss(bad, labels, weights)
    assert torch.equal(bad.detach(), before[0])


def test_focal_of_nothing():
    for n, c, label in ((0, 3, 0), (4, 3, -1)):
        logits = torch.randn(n, c, requires_grad=True)
        total = losses.sigmoid_focal_loss(logits, torch.full((n,), label))
        assert total.shape == () and total.item() == 0
        total.backward()
        assert logits.grad.shape == (n, c) and not logits.grad.any()


def test_focal_keeps_only_the_logits_for_backward():
    saved = []
    logits = torch.randn(64, 8, requires_grad=True)
    labels = torch.randint(0, 9, (64,), generator=rng())
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        losses.sigmoid_focal_loss(logits, labels)
    assert saved == [logits.data_ptr(), labels.data_ptr()]


def test_focal_compiles_whole():
    logits, labels, weights = random_focal_case(20, 3, rng(6), torch.float32)
    logits.requires_grad_()
    compiled = torch.compile(losses.sigmoid_focal_loss, fullgraph=True, backend="aot_eager")
    got, want = (f(logits, labels, weights) for f in (compiled, losses.sigmoid_focal_loss))
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(*(torch.autograd.grad(total, logits)[0] for total in (got, want)))


def test_focal_refuses():
    logits, labels = torch.zeros(2, 3), torch.tensor([0, 1])
    for wrong in (4, -2):
        with pytest.raises(ValueError, match=rf"labels must be in -1\.\.3, got {wrong}"):
            losses.sigmoid_focal_loss(logits, torch.tensor([0, wrong]))
    for change, error, words in (
        ({"logits": logits[0]}, ValueError, r"\[N, C\], got \[3\]"),
        ({"logits": logits.long()}, TypeError, "logits must be .* got Long"),
        ({"labels": labels.int()}, TypeError, "labels must be Long, got Int"),
        ({"logits": None}, TypeError, "logits .* NoneType"),
        ({"labels": labels[:1]}, ValueError, r"\[2\], got \[1\]"),
        ({"weights": torch.ones(3)}, ValueError, r"\[2\], got \[3\]"),
        ({"alpha": 1.5}, ValueError, "alpha must be in .* got 1.5"),
        ({"gamma": -1.5}, ValueError, "gamma .* got -1.5"),
        ({"gamma": math.inf}, ValueError, "gamma .* got inf"),
        ({"gamma": math.nan}, ValueError, "gamma .* got nan"),
        ({"weights": [1.0, 1.0]}, TypeError, "weights .* list"),
    ):
        with pytest.raises(error, match=words):
            losses.sigmoid_focal_loss(**({"logits": logits, "labels": labels} | change))


def test_box_losses_by_hand():
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0]])
    targets = torch.tensor([[0.0, 0.0, 2.0, 4.0], [2.0, 0.0, 3.0, 1.0]])  # IoU 1/2; disjoint, hull 3, union 2
    for kind, want in (
        ("iou", math.log(2) - math.log(1e-3)),
        ("linear_iou", 0.5 + 1 - 1e-3),
        ("giou", 0.5 + 4 / 3),
    ):
        assert losses.iou_loss(boxes, targets, kind=kind, eps=1e-3).item() == pytest.approx(want, rel=1e-6)
    assert losses.l1_loss(boxes, targets).item() == 2 + 4
    assert losses.smooth_l1(boxes, targets, beta=4.0).item() == 4 / 8 + 2 * 4 / 8
    with pytest.raises(ValueError, match="'diou'"):
        losses.iou_loss(boxes, targets, kind="diou")
    with pytest.raises(ValueError, match="eps must be in .* got 0"):
        losses.iou_loss(boxes, targets, eps=0)
    with pytest.raises(ValueError, match="beta must not be negative, got -1"):
        losses.smooth_l1(boxes, targets, beta=-1)
    with pytest.raises(ValueError, match=r"\[N, 4\], got \[2, 2\]"):
        losses.iou_loss(boxes[:, :2], targets[:, :2])


def test_descent_moves_boxes_onto_their_targets():
    """Only GIoU reaches a disjoint target; -log IoU and 1 - IoU have no slope there."""
    target, start = torch.tensor([[10.0, 10.0, 20.0, 20.0]]), torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    for kind, reaches in (("giou", True), ("iou", False), ("linear_iou", False)):
        box = start.clone().requires_grad_()
        optimizer = torch.optim.SGD([box], lr=20.0)
        for step in range(300):
            optimizer.param_groups[0]["lr"] = 20.0 * (1 - step / 300)
            optimizer.zero_grad()
            losses.iou_loss(box, target, kind=kind).backward()
            optimizer.step()
        assert (paired_box_iou(box, target).item() > 0.8) == reaches


def test_rescoring_and_alignment_by_hand():
    logits, ious = torch.tensor([0.0, math.log(3)]), torch.tensor([1.0, 0.25])
    assert losses.iou_rescoring_loss(logits, ious).item() == pytest.approx(0.25 + 0.25)
    assert losses.prediction_alignment_loss(torch.tensor([0.1, 0.9]), ious).item() == pytest.approx(0.81 + 0.65**2)


def test_centerness_target():
    ltrb = torch.tensor(
        [[4.0, 3.0, 4.0, 3.0], [1, 1, 4, 9], [0, 1, 5, 1], [-1, -1, 5, 5], [0, 0, 0, 0], [-2, -2, -1, -1]]
    )
    want = [1, 1 / 6, 0, 0, 0, 0]
    assert losses.centerness_target(ltrb).tolist() == pytest.approx(want, rel=1e-6)
    batched = losses.centerness_target(ltrb.view(2, 3, 4) * 1e3)
    assert batched.flatten().tolist() == pytest.approx(want, rel=1e-6)
    assert losses.centerness_target(ltrb.half()).dtype == torch.float32
    assert losses.centerness_target(torch.zeros(0, 4)).shape == (0,)
    with pytest.raises(ValueError, match=r"\[\.\.\., 4\], got \[6, 3\]"):
        losses.centerness_target(ltrb[:, :3])


def test_golden_fcos_losses():
    """Raw outputs and recorded targets -> the three recorded losses, with MMDetection's normalizers."""

    def flat(name, levels, case, channels):
        maps = [case[f"{name}_{i}"] for i in range(levels)]
        return torch.cat([m.permute(0, 2, 3, 1).reshape(-1, channels) for m in maps])

    for case in load_golden("fcos"):
        levels = sum(name.startswith("labels_") for name in case)
        num_classes = int(case["num_classes"])
        cls, reg, ctr = (flat(n, levels, case, c) for n, c in (("cls", num_classes), ("reg", 4), ("ctr", 1)))
        labels = torch.cat([case[f"labels_{i}"] for i in range(levels)]).long()
        ltrb = torch.cat([case[f"box_targets_{i}"] for i in range(levels)])
        labels = torch.where(labels == num_classes, 0, labels + 1)
        positive, images = labels > 0, case["cls_0"].shape[0]
        points = torch.cat([case[f"points_{i}"].repeat(images, 1) for i in range(levels)])
        boxes, targets = (torch.cat((points - d[:, :2], points + d[:, 2:]), 1) for d in (reg, ltrb))
        centerness = losses.centerness_target(ltrb) * positive
        count = losses.normalizer(positive.sum())
        assert count > 1
        loss_cls = losses.sigmoid_focal_loss(cls, labels) / count
        loss_box = losses.iou_loss(boxes, targets, centerness) / centerness.sum()
        loss_centerness = losses.centerness_loss(ctr[:, 0], centerness, positive) / count
        for name, got in (("cls", loss_cls), ("box", loss_box), ("centerness", loss_centerness)):
            torch.testing.assert_close(got, case[f"loss_{name}"].to(got).reshape(()), rtol=1e-5, atol=0)


def test_normalizer_of_one_process():
    assert losses.normalizer(torch.tensor(0)).item() == 1
    count = losses.normalizer(torch.tensor([True, True, True]).sum())
    assert count.item() == 3 and count.dtype == torch.float32
    value = torch.tensor(0.25, requires_grad=True)
    assert losses.reduce_mean(value).item() == 0.25 and not losses.reduce_mean(value).requires_grad
    with pytest.raises(TypeError, match="got 3"):
        losses.reduce_mean(3)


def _one_rank(rank, port, results):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    count = torch.tensor(5.0 * rank)  # one rank without a positive
    results[rank, 0] = losses.normalizer(count)
    results[rank, 1] = losses.normalizer(torch.tensor(0))
    results[rank, 2] = count
    dist.destroy_process_group()


def test_normalizer_is_averaged_over_ranks():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = torch.zeros(2, 3).share_memory_()
    mp.spawn(_one_rank, args=(port, results), nprocs=2)
    assert results.tolist() == [[2.5, 0.5, 0], [2.5, 0.5, 5]]  # at least one positive in all
