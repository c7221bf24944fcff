"""topk_alignment's CUDA device code, run on the CPU through tests/cuda_shim, against the CPU operator."""

import pytest
import torch
from test_cuda_shim import call, generator, library, pytestmark, random_boxes, same_bits  # noqa: F401

import mlc_ext


def shim_topk(library, boxes, gts, image, k, logits=None, columns=None, alpha=1.0, beta=6.0):  # noqa: F811
    """-> metric, prior; every element starts as 77."""
    metric, prior = boxes.new_full((len(gts), k), 77), torch.full((len(gts), k), 77)
    name = "float" if boxes.dtype == torch.float32 else "double"
    function = getattr(library("driver_topk"), f"shim_topk_alignment_{name}")
    classes = 0 if logits is None else logits.shape[2]
    sizes = [boxes.shape[0], boxes.shape[1]]
    call(function, boxes, *sizes, gts, len(gts), image, logits, columns, classes, k, float(alpha), float(beta), metric,
         prior)  # fmt: skip
    return metric, prior


def batch(seed, n, num_gts, dtype=torch.float32, images=2, classes=3):
    g = generator(seed)
    boxes = random_boxes(images * n, g, dtype=dtype).view(images, n, 4)
    image, columns = (torch.randint(0, count, (num_gts,), generator=g) for count in (images, classes))
    logits = torch.randn(images, n, classes, generator=g, dtype=dtype)
    return boxes, random_boxes(num_gts, g, size=70, dtype=dtype), image, logits, columns


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 64, 65, 150])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 6.0), (0.5, 2.5)])
def test_with_scores(library, dtype, n, alpha, beta):  # noqa: F811
    boxes, gts, image, logits, columns = batch(n, n, 4, dtype)
    found = shim_topk(library, boxes, gts, image, 7, logits, columns, alpha, beta)
    expected = mlc_ext.topk_alignment(boxes, gts, image, 7, logits=logits, columns=columns, alpha=alpha, beta=beta)
    torch.testing.assert_close(found[0], expected.metric, rtol=1e-5, atol=0)
    assert torch.equal(found[1], expected.prior)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 90])
def test_by_iou_alone_and_with_ties(library, dtype, k):  # noqa: F811
    """Rounded boxes give equal IoUs, in one thread and in several."""
    boxes, gts, image, *_ = batch(3, 150, 4, dtype)
    boxes = (boxes / 8).round() * 8
    found = shim_topk(library, boxes, gts, image, k, beta=1.0)
    expected = mlc_ext.topk_alignment(boxes, gts, image, k, beta=1.0)
    same_bits(found[0], expected.metric)
    assert torch.equal(found[1], expected.prior)
    assert k == 1 or (expected.metric[:, 1:] == expected.metric[:, :-1])[expected.prior[:, 1:] >= 0].any()


def test_no_priors_and_values_out_of_range(library):  # noqa: F811
    """The GPU does not look at gt_image and columns before the launch: such a gt has no priors."""
    boxes, gts, image, logits, columns = batch(7, 70, 6)
    expected = mlc_ext.topk_alignment(boxes, gts, image, 5, logits=logits, columns=columns)
    for bad in (-1, 2**62, -(2**62), 3):
        wrong_image, wrong_columns = image.clone(), columns.clone()
        wrong_image[1], wrong_columns[4] = bad, bad
        metric, prior = shim_topk(library, boxes, gts, wrong_image, 5, logits, wrong_columns)
        assert (prior[[1, 4]] == -1).all() and not metric[[1, 4]].any()
        rest = [0, 2, 3, 5]
        assert torch.equal(prior[rest], expected.prior[rest])
    metric, prior = shim_topk(library, boxes[:, :0].contiguous(), gts, image, 5)
    assert (prior == -1).all() and not metric.any()


def test_logits_that_are_not_finite(library):  # noqa: F811
    boxes, gts, image, logits, columns = batch(8, 100, 5)
    logits[:, ::3] = float("nan")
    logits[:, 1::3] = -float("inf")
    found = shim_topk(library, boxes, gts, image, 30, logits, columns)
    expected = mlc_ext.topk_alignment(boxes, gts, image, 30, logits=logits, columns=columns)
    assert torch.equal(found[1], expected.prior) and (found[1] % 3 == 2)[found[1] >= 0].all()
