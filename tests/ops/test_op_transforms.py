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
    "mutual_labels": "gt indices",
    "segmented_spearman": "segment ids",
    "match_boxes": "gt_offsets",
    "topk_alignment": "gt_image",
    "box_iou": "paired_box_iou",
    "paired_box_iou": "flatten",
    "iou_loss": "flatten",
    "sigmoid_focal_loss": "flatten",
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


def split_inputs(device, program, dtype=torch.float64):
    """A function of the inputs that have a gradient, the reference's, and these inputs; the others are held."""
    inputs = [t.detach() for t in program.inputs(device, 5, dtype)]
    leaves, held = inputs[: program.differentiable], inputs[program.differentiable :]
    return lambda *t: program.run(*t, *held), lambda *t: program.expected(*t, *held), leaves


@every_differentiable
def test_gradients_of_torch_func(device, program):
    run, expected, leaves = split_inputs(device, program)

    def gradients(run):
        value, pull = torch.func.vjp(run, *leaves)
        of_squares = torch.func.grad(lambda *t: run(*t).square().sum(), argnums=tuple(range(len(leaves))))
        weight = torch.linspace(-1, 1, value.numel(), device=device, dtype=value.dtype).view_as(value)
        return value, *pull(weight), *of_squares(*leaves)

    torch.testing.assert_close(gradients(run), gradients(expected), rtol=1e-9, atol=1e-9)


@every_differentiable
def test_gradient_of_torch_func_of_one_side(device, program):
    run, expected, leaves = split_inputs(device, program)
    for side in range(len(leaves)):
        ours, theirs = (torch.func.grad(lambda *t, f=f: f(*t).sum(), side)(*leaves) for f in (run, expected))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@every_differentiable
def test_gradients_of_torch_func_under_autocast(device, program):
    run, _, halves = split_inputs(device, program, torch.bfloat16)
    with torch.autocast(device, dtype=torch.bfloat16):
        ours = torch.func.grad(lambda *t: run(*t).sum(), argnums=tuple(range(len(halves))))(*halves)
    held = [t.float() if t.is_floating_point() else t for t in program.inputs(device, 5, torch.bfloat16)]
    floats = [t.float().requires_grad_() for t in halves]
    total = program.run(*floats, *held[len(floats) :]).sum()
    for grad, expected in zip(ours, torch.autograd.grad(total, floats), strict=True):
        same_bits(grad, expected.bfloat16())


@every_differentiable
def test_forward_mode_is_refused(device, program):
    """torch by itself would give a tangent of 0, without a word."""
    run, _, (first, *others) = split_inputs(device, program)
    expected = f"^{program.operator}: forward-mode differentiation is not provided"
    with pytest.raises(NotImplementedError, match=expected):
        torch.func.jvp(lambda a: run(a, *others), (first,), (first,))
    with pytest.raises(NotImplementedError, match=expected):
        torch.func.hessian(lambda a: run(a, *others).sum())(first)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(first, first)
        with pytest.raises(NotImplementedError, match=expected):
            run(dual, *others)


@every_differentiable
def test_batched_and_second_gradients_are_refused(device, program):
    run, _, (first, *others) = split_inputs(device, program)
    name = "paired_box_iou" if program.operator == "box_iou" else program.operator
    with pytest.raises(NotImplementedError, match=f"^{name}_backward: vmap is not supported; take one gradient"):
        torch.func.jacrev(lambda a: run(a, *others))(first)
    gradient = torch.func.grad(lambda a: run(a, *others).sum())
    with pytest.raises(NotImplementedError, match=f"^{name}: double backward"):
        torch.func.grad(lambda a: gradient(a).square().sum())(first)


@every_differentiable
def test_torch_func_is_not_compiled(device, program):
    run, _, (first, *others) = split_inputs(device, program)
    torch._dynamo.reset()
    for transformed in (
        torch.func.grad(lambda a: run(a, *others).sum()),
        lambda a: torch.func.jvp(lambda b: run(b, *others), (a,), (a,)),
    ):
        with pytest.raises(Exception, match=f"{program.operator}: torch.func and forward mode are not supported under"):
            torch.compile(transformed, fullgraph=True, backend="eager")(first)


def test_constants_have_no_gradient(device):
    """Thresholds are constants: torch.func finds a derivative of 0."""
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
