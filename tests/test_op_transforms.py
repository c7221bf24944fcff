"""torch.func over the operators: gradients by reverse mode, and clear refusals of what has no rule."""

import pytest
import torch
import torch._dynamo
from comparisons import on, same_bits
from op_programs import PROGRAMS, box_inputs, every_program, tensors

from mlc_ext import box_iou, paired_box_iou, reference, segmented_otsu

DIFFERENTIABLE = [program for program in PROGRAMS.values() if program.differentiable]
every_differentiable = pytest.mark.parametrize("program", DIFFERENTIABLE, ids=lambda program: program.name)

# what the message must name, to be used instead
INSTEAD = {
    "segmented_otsu": "segment ids",
    "mutual_labels": "segment ids",
    "segmented_spearman": "segment ids",
    "match_boxes": "gt_offsets",
    "box_iou": "paired_box_iou",
    "paired_box_iou": "flatten",
    "rescored_nms": "batched_rescored_nms",
    "iou_nms": "batched_iou_nms",
    "batched_rescored_nms": "flatten",
    "batched_iou_nms": "flatten",
}


@every_program
def test_vmap_is_refused_and_says_what_to_do(device, program):
    inputs = [t.detach() for t in program.inputs(device, 6)]
    for batched in range(len(inputs)):  # over any one input alone
        in_dims = tuple(0 if i == batched else None for i in range(len(inputs)))
        samples = [t.expand(3, *t.shape) if i == batched else t for i, t in enumerate(inputs)]
        with pytest.raises(NotImplementedError) as caught:
            torch.vmap(program.run, in_dims=in_dims)(*samples)
        text = str(caught.value)
        assert text.startswith(f"{program.operator}: vmap is not supported; ") and INSTEAD[program.operator] in text


@every_program
def test_an_operator_of_what_vmap_does_not_map_runs(device, program):
    inputs = [t.detach() for t in program.inputs(device, 6)]

    def beside(x):
        return [t * x.to(t.dtype) for t in tensors(program.run(*inputs))]

    for ours, expected in zip(
        torch.vmap(beside)(torch.ones(3, device=device)), tensors(program.run(*inputs)), strict=True
    ):
        same_bits(ours, expected.expand(3, *expected.shape).clone())


def double_inputs(device, program):
    return [t.detach() for t in program.inputs(device, 5, torch.float64)]


@every_differentiable
def test_gradients_of_torch_func(device, program):
    boxes1, boxes2 = double_inputs(device, program)

    def gradients(run):
        value, pull = torch.func.vjp(run, boxes1, boxes2)
        grads = torch.func.grad(lambda a, b: run(a, b).square().sum(), argnums=(0, 1))(boxes1, boxes2)
        weight = torch.linspace(-1, 1, value.numel(), device=device, dtype=value.dtype).view_as(value)
        return value, *pull(weight), *grads

    ours, theirs = gradients(program.run), gradients(program.expected)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@every_differentiable
@pytest.mark.parametrize("side", [0, 1])
def test_gradient_of_torch_func_of_one_side(device, program, side):
    def gradient(run):
        return torch.func.grad(lambda a, b: run(a, b).sum(), side)(*double_inputs(device, program))

    ours, theirs = gradient(program.run), gradient(program.expected)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@every_differentiable
def test_gradients_of_torch_func_under_autocast(device, program):
    halves = [t.detach() for t in program.inputs(device, 5, torch.bfloat16)]
    with torch.autocast(device, dtype=torch.bfloat16):
        ours = torch.func.grad(lambda a, b: program.run(a, b).sum(), argnums=(0, 1))(*halves)
    floats = [t.float().requires_grad_() for t in halves]
    for grad, expected in zip(ours, torch.autograd.grad(program.run(*floats).sum(), floats), strict=True):
        same_bits(grad, expected.bfloat16())


@every_differentiable
def test_forward_mode_is_refused(device, program):
    """torch by itself would give a tangent of 0, without a word."""
    boxes1, boxes2 = double_inputs(device, program)
    expected = f"^{program.operator}: forward-mode differentiation is not provided"
    with pytest.raises(NotImplementedError, match=expected):
        torch.func.jvp(lambda a: program.run(a, boxes2), (boxes1,), (boxes1,))
    with pytest.raises(NotImplementedError, match=expected):
        torch.func.hessian(lambda a: program.run(a, boxes2).sum())(boxes1)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(boxes1, boxes1)
        with pytest.raises(NotImplementedError, match=expected):
            program.run(dual, boxes2)


@every_differentiable
def test_batched_and_second_gradients_are_refused(device, program):
    boxes1, boxes2 = double_inputs(device, program)
    with pytest.raises(NotImplementedError, match="^paired_box_iou_backward: vmap is not supported; take one gradient"):
        torch.func.jacrev(lambda a: program.run(a, boxes2))(boxes1)
    gradient = torch.func.grad(lambda a: program.run(a, boxes2).sum())
    with pytest.raises(NotImplementedError, match="^paired_box_iou: double backward"):
        torch.func.grad(lambda a: gradient(a).square().sum())(boxes1)


@every_differentiable
def test_torch_func_is_not_compiled(device, program):
    boxes1, boxes2 = double_inputs(device, program)
    torch._dynamo.reset()
    for transformed in (
        torch.func.grad(lambda a: program.run(a, boxes2).sum()),
        lambda a: torch.func.jvp(lambda b: program.run(b, boxes2), (a,), (a,)),
    ):
        with pytest.raises(Exception, match=f"{program.operator}: torch.func and forward mode are not supported under"):
            torch.compile(transformed, fullgraph=True, backend="eager")(boxes1)


def test_constants_have_no_gradient(device):
    """Thresholds are constants (METHOD: detached): torch.func finds a derivative of 0."""
    values, ids = torch.rand(6, device=device), torch.arange(6, device=device) % 2
    assert (torch.func.grad(lambda v: segmented_otsu(v, ids, 2).sum())(values) == 0).all()


def test_per_sample_gradients_as_the_messages_advise(device):
    """What one would write with vmap(grad): the samples' pairs flattened into one call."""
    boxes1, boxes2 = (t.view(2, 3, 4) for t in on(device, *box_inputs(6, torch.float64, 6)))
    flat = boxes1.flatten(0, 1).requires_grad_()
    paired_box_iou(flat, boxes2.flatten(0, 1)).sum().backward()
    for sample, other, grad in zip(boxes1, boxes2, flat.grad.view(2, 3, 4), strict=True):
        same_bits(torch.func.grad(lambda a, b=other: paired_box_iou(a, b).sum())(sample), grad)
    matrices = torch.stack([box_iou(a, b) for a, b in zip(boxes1, boxes2, strict=True)])
    same_bits(matrices.cpu(), torch.vmap(reference.box_iou)(boxes1.detach().cpu(), boxes2.cpu()))
