"""What torch must know of every operator: schemas, fakes, autograd, compile, export, autocast."""

import pytest
import torch
import torch._dynamo
from comparisons import on, same_bits
from op_programs import (
    GROUPS,
    PROGRAMS,
    alignment_inputs,
    box_inputs,
    every_program,
    group_inputs,
    image_inputs,
    match_inputs,
    nms_inputs,
    row_inputs,
    tensors,
    weighted_pair_inputs,
)

import mlc_ext
from mlc_ext import batched_rescored_nms, box_iou, mutual_labels, paired_box_iou, segmented_otsu

OPS = torch.ops.mlc_ext


def cases():
    """(operator, arguments): types, optional arguments, empty inputs, and gradients where there are some."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        scores, ious, ids, baseline = group_inputs(20, dtype)
        yield "segmented_otsu", (scores, ids, 3, None)
        yield "mutual_labels", (scores, ious, ids, baseline, 3, 0.5, False, None)
        nms = nms_inputs(9, dtype)
        yield "rescored_nms", (*(t[0] for t in nms), 0.5)
        yield "batched_rescored_nms", (*nms, 0.5, 0.05, 6, 4)
    scores, ious, ids, baseline = group_inputs(0, k=0)
    yield "segmented_otsu", (scores, ids, 0, 16)
    yield "mutual_labels", (scores, ious, ids, baseline, 0, 0.0, True, 16)
    yield "batched_rescored_nms", (*nms_inputs(9)[:2], None, None, 0.5, -float("inf"), -1, -1)
    yield "batched_rescored_nms", (*nms_inputs(0), 0.5, 0.0, -1, 100)
    boxes, scores, quality, labels = image_inputs(9)
    yield "rescored_nms", (boxes, scores, None, None, 0.5)
    for names in (labels, None):
        yield "iou_nms", (boxes, scores, quality, names, 0.5)
    for n in (9, 0):
        yield "batched_iou_nms", (*nms_inputs(n), 0.5, 0.05, -1, 3)
    for n in (20, 0):
        yield "match_boxes", (*match_inputs(n), 0.5, 0.4, 1, 0.0, 0.5)
        scores, ious, ids, _ = group_inputs(n)
        yield "segmented_spearman", (scores, ious, ids, GROUPS if n else 0)  # opcheck: NaN is not NaN
    for n, dtype in ((9, torch.float32), (9, torch.bfloat16), (9, torch.float64), (0, torch.float32)):
        predicted, gts, images, logits, columns = alignment_inputs(n, dtype)
        yield "topk_alignment", (predicted, gts, images, logits, columns, 4, 1.0, 6.0)
        yield "topk_alignment", (predicted, gts, images, None, None, 4, 1.0, 0.5)
    priors, gts, offsets, _ = match_inputs(20, torch.bfloat16)
    yield "match_boxes", (priors, gts, offsets, None, 0.7, 0.3, 2, 0.3, 1.0)
    for n, m, dtype, grad in (
        (5, 4, torch.float64, True),
        (5, 4, torch.float16, False),
        (0, 3, torch.float32, True),
    ):
        a, b = (t.requires_grad_(grad) for t in box_inputs(n, dtype, m))
        yield "box_iou", (a, b)
        for generalized in (False, True):
            near = (a.detach() + 1).requires_grad_(grad)
            yield "paired_box_iou", (a, near, generalized)
            fixed = a.detach(), near.detach()
            for asked in ((True, True), (True, False), (False, True)):
                yield "paired_box_iou_backward", (torch.ones(n, dtype=dtype), *fixed, generalized, *asked)
            one = torch.ones((), dtype=dtype).expand(n)
            yield "paired_box_iou_backward", (one, *fixed, generalized, False, False)

    for n, dtype, gamma in (
        (5, torch.float64, 2.0),
        (5, torch.float64, 0.5),
        (5, torch.float16, 1.0),
        (0, torch.float32, 2.0),
    ):
        logits, labels, weights = row_inputs(n, dtype)
        weights = weights.to(torch.promote_types(dtype, torch.float32))
        yield "sigmoid_focal_loss", (logits.clone().requires_grad_(), labels, weights, 0.25, gamma)
        yield "sigmoid_focal_loss", (logits, labels, None, 0.25, gamma)
        yield "sigmoid_focal_loss_backward", (weights.new_ones(()), logits, labels, weights, 0.25, gamma)
    for n, dtype in ((5, torch.float64), (5, torch.bfloat16), (0, torch.float32)):
        yield "iou_loss", (*box_inputs(n, dtype, n), None, 0, 1e-6)  # without a gradient
        boxes, targets, weights = weighted_pair_inputs(n, dtype)
        weights = weights.to(torch.promote_types(dtype, torch.float32))
        for kind in range(3):
            yield "iou_loss", (boxes.clone().requires_grad_(), targets, weights, kind, 1e-6)
            yield "iou_loss_backward", (weights.new_ones(()), boxes, targets, weights, kind, 1e-6)


def case_id(case):
    op, args = case
    return f"{op}-{args[0].dtype}-{tuple(args[0].shape)}".replace("torch.", "")


def move(device, args):
    return tuple(
        a.detach().to(device).requires_grad_(a.requires_grad) if isinstance(a, torch.Tensor) else a for a in args
    )


@pytest.mark.parametrize("case", list(cases()), ids=case_id)
def test_opcheck(device, case):
    op, args = case
    torch.library.opcheck(getattr(OPS, op).default, move(device, args))


def test_every_operator_is_checked():
    names = torch._C._dispatch_get_all_op_names()
    registered = {name.removeprefix("mlc_ext::") for name in names if name.startswith("mlc_ext::")}
    public = {program.operator for program in PROGRAMS.values()}
    backward = {f"{name}_backward" for name in ("paired_box_iou", "iou_loss", "sigmoid_focal_loss")}
    assert public | backward == registered == {op for op, _ in cases()}
    assert public <= set(mlc_ext.__all__)


@every_program
@torch._dynamo.config.patch(error_on_recompile=True)
def test_compile_is_eager_in_one_graph(device, program):
    """fullgraph, dynamic shapes, forward and backward; a second size must not compile a second graph."""
    torch._dynamo.reset()

    def around(*inputs):  # an operator is one node of a graph among others
        return [t + 1 for t in tensors(program.run(*(t + 0 if t.is_floating_point() else t for t in inputs)))]

    compiled = torch.compile(around, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in (12, 17, 30):
        inputs = program.inputs(device, size)
        for ours, theirs in zip(compiled(*inputs), around(*inputs), strict=True):
            same_bits(ours.detach(), theirs.detach())
            assert ours.requires_grad == theirs.requires_grad == (program.differentiable > 0)
            if program.differentiable:
                leaves = inputs[: program.differentiable]
                for grads in zip(*(torch.autograd.grad(t.sum(), leaves) for t in (ours, theirs)), strict=True):
                    same_bits(*grads)


@pytest.mark.parametrize("run", [box_iou, paired_box_iou])
@pytest.mark.parametrize("side", [0, 1])
@torch._dynamo.config.patch(error_on_recompile=True)
def test_compiled_gradient_of_one_side(device, run, side):
    """The operator's other gradient is an empty tensor in the joint graph."""

    def around(a, b):
        return run(a, b) * 2

    torch._dynamo.reset()
    compiled = torch.compile(around, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in (12, 17):
        inputs = [t.to(device) for t in box_inputs(size, m=size)]
        inputs[side].requires_grad_()
        ours, theirs = (torch.autograd.grad(f(*inputs).sum(), inputs[side]) for f in (compiled, around))
        same_bits(*ours, *theirs)


class AsModule(torch.nn.Module):
    def __init__(self, run):
        super().__init__()
        self.run = run

    def forward(self, *inputs):
        return self.run(*inputs)


def growing_dimensions(program) -> tuple[dict, ...]:
    """Of every input the dimensions that follow the size, for torch.export."""
    pairs = zip(program.make(12), program.make(17), strict=True)
    return tuple({d: torch.export.Dim.AUTO for d in range(a.dim()) if a.shape[d] != b.shape[d]} for a, b in pairs)


@every_program
def test_export_at_any_size(device, program):
    inputs = tuple(t.detach() for t in program.inputs(device, 12))
    exported = torch.export.export(AsModule(program.run), inputs, dynamic_shapes=(growing_dimensions(program),))
    assert [n for n in exported.graph.nodes if str(n.target) == f"mlc_ext.{program.operator}.default"]
    for size in (12, 17, 40):
        inputs = tuple(t.detach() for t in program.inputs(device, size))
        for ours, theirs in zip(tensors(exported.module()(*inputs)), tensors(program.run(*inputs)), strict=True):
            same_bits(ours, theirs)


class Postprocess(torch.nn.Module):
    """What a detector exports: rescored NMS of fixed size, then the IoUs of the kept boxes."""

    def forward(self, boxes, scores, quality, labels):
        kept = batched_rescored_nms(boxes, scores, quality, labels, 0.5, score_threshold=0.05, max_detections=5)
        best = boxes.gather(1, kept.keep.clamp(min=0)[..., None].expand(-1, -1, 4))
        return kept.keep, kept.scores, kept.counts, box_iou(best[0], boxes[0])


class Labeling(torch.nn.Module):
    def forward(self, scores, ious, ids, baseline):
        labels = mutual_labels(scores, ious, ids, baseline, 3, alpha=0.5)
        return labels.cls_labels, labels.loc_weights, segmented_otsu(ious, ids, 3)


@pytest.mark.parametrize(
    ("module", "make"),
    [(Postprocess(), nms_inputs), (Labeling(), group_inputs)],
    ids=["postprocess", "labeling"],
)
def test_export(device, module, make):
    size = torch.export.Dim("n", min=6, max=4096)
    dimension = 1 if isinstance(module, Postprocess) else 0
    program = torch.export.export(module, tuple(on(device, *make(12))), dynamic_shapes=[{dimension: size}] * 4)
    assert any("mlc_ext" in str(node.target) for node in program.graph.nodes)
    for n in (12, 31):
        inputs = on(device, *make(n))
        for ours, theirs in zip(program.module()(*inputs), module(*inputs), strict=True):
            same_bits(ours, theirs)


@every_program
def test_autocast_computes_in_float32(device, program):
    halves = tuple(t.detach() for t in program.inputs(device, 12, torch.bfloat16))
    with torch.autocast(device, dtype=torch.bfloat16):
        results = tensors(program.run(*halves))
    floats = (t.float() if t.is_floating_point() else t for t in halves)
    for ours, theirs in zip(results, tensors(program.run(*floats)), strict=True):
        same_bits(ours, theirs)


@every_program
def test_fakes_have_the_types_and_shapes_of_results(program):
    """On meta tensors an operator gives shapes; one whose length depends on data raises an error."""
    inputs = tuple(t.detach() for t in program.make(20))
    fakes = [t.to("meta") for t in inputs]
    if program.operator in ("rescored_nms", "iou_nms"):
        with pytest.raises((NotImplementedError, RuntimeError)):
            program.run(*fakes)
        return
    for fake, result in zip(tensors(program.run(*fakes)), tensors(program.run(*inputs)), strict=True):
        assert fake.device.type == "meta"
        assert (fake.shape, fake.dtype) == (result.shape, result.dtype)
