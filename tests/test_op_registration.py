"""What torch must know of every operator: schemas, fakes, autograd, compile, export, autocast, vmap."""

import pytest
import torch
from strategies import on, random_boxes, rng, same_bits

import mlc_ext
from mlc_ext import batched_rescored_nms, box_iou, mutual_labels, paired_box_iou, rescored_nms, segmented_otsu

OPS = torch.ops.mlc_ext


def group_inputs(n, k, dtype=torch.float32):
    """scores, ious, ids and baseline labels of n priors and k gts."""
    g = rng(n + k)
    ids = torch.randint(-1, max(k, 1), (n,), generator=g) if k else torch.full((n,), -1)
    baseline = torch.randint(-1, 2, (n,), generator=g).where(ids >= 0, 0).to(torch.int8)
    scores, ious = (torch.rand(n, generator=g).to(dtype) for _ in range(2))
    return scores, ious, ids, baseline


def box_inputs(n, m, dtype=torch.float32, grad=False):
    return tuple(random_boxes(k, rng(k), extent=40).to(dtype).requires_grad_(grad) for k in (n, m))


def nms_inputs(batch, n, dtype=torch.float32, optional=True):
    g = rng(n)
    boxes = random_boxes(batch * n, g).to(dtype).view(batch, n, 4)
    scores, quality = (torch.rand(batch, n, generator=g).to(dtype) for _ in range(2))
    labels = torch.randint(0, 3, (batch, n), generator=g)
    return (boxes, scores, quality, labels) if optional else (boxes, scores, None, None)


def cases():
    """(operator, arguments): types, optional arguments, empty inputs, and gradients where there are some."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        scores, ious, ids, baseline = group_inputs(20, 3, dtype)
        yield "segmented_otsu", (scores, ids, 3, None)
        yield "mutual_labels", (scores, ious, ids, baseline, 3, 0.5, False, None)
        nms = nms_inputs(2, 9, dtype)
        yield "rescored_nms", (*(t[0] for t in nms), 0.5)
        yield "batched_rescored_nms", (*nms, 0.5, 0.05, 6, 4)
    scores, ious, ids, baseline = group_inputs(0, 0)
    yield "segmented_otsu", (scores, ids, 0, 16)
    yield "mutual_labels", (scores, ious, ids, baseline, 0, 0.0, True, 16)
    yield "batched_rescored_nms", (*nms_inputs(2, 9, optional=False), 0.5, -float("inf"), -1, -1)
    yield "batched_rescored_nms", (*nms_inputs(2, 0), 0.5, 0.0, -1, 100)
    boxes, scores, _, _ = nms_inputs(1, 9)
    yield "rescored_nms", (boxes[0], scores[0], None, None, 0.5)
    for n, m, dtype, grad in (
        (5, 4, torch.float64, True),
        (5, 4, torch.float16, False),
        (0, 3, torch.float32, True),
    ):
        a, b = box_inputs(n, m, dtype, grad)
        yield "box_iou", (a, b)
        for generalized in (False, True):
            near = (a.detach() + 1).requires_grad_(grad)
            yield "paired_box_iou", (a, near, generalized)
            fixed = a.detach(), near.detach()
            yield "paired_box_iou_backward", (torch.ones(n, dtype=dtype), *fixed, generalized)


def case_id(case):
    op, args = case
    return f"{op}-{args[0].dtype}-{tuple(args[0].shape)}".replace("torch.", "")


def move(device, args):
    return tuple(
        a.detach().to(device).requires_grad_(a.requires_grad) if isinstance(a, torch.Tensor) else a
        for a in args
    )


@pytest.mark.parametrize("case", list(cases()), ids=case_id)
def test_opcheck(device, case):
    op, args = case
    torch.library.opcheck(getattr(OPS, op).default, move(device, args))


def test_every_operator_is_checked():
    names = torch._C._dispatch_get_all_op_names()
    registered = {name.removeprefix("mlc_ext::") for name in names if name.startswith("mlc_ext::")}
    public = {
        "segmented_otsu",
        "mutual_labels",
        "box_iou",
        "paired_box_iou",
        "rescored_nms",
        "batched_rescored_nms",
    }
    assert public | {"paired_box_iou_backward"} <= registered
    assert {op for op, _ in cases()} == public | {"paired_box_iou_backward"}
    assert public <= set(mlc_ext.__all__)


def programs(size):
    """(function, inputs) of every public operator at a size that torch.compile may treat as dynamic."""
    scores, ious, ids, baseline = group_inputs(size, 3)
    a, b = box_inputs(size, size + 1, grad=True)
    near = (a.detach() + 1).requires_grad_()
    boxes, nms_scores, quality, labels = nms_inputs(2, size)
    return {
        "segmented_otsu": (lambda v, i: segmented_otsu(v * 2, i, 3) + 1, (scores, ids)),
        "segmented_otsu bins": (lambda v, i: segmented_otsu(v, i, 3, bins=8), (scores, ids)),
        "mutual_labels": (lambda *t: mutual_labels(*t, 3, alpha=0.5), (scores, ious, ids, baseline)),
        "box_iou": (lambda x, y: box_iou(x, y) * 2, (a, b)),
        "paired_box_iou": (lambda x, y: paired_box_iou(x, y) * 2, (a, near)),
        "paired_box_iou giou": (lambda x, y: 1 - paired_box_iou(x, y, kind="giou"), (a, near)),
        "rescored_nms": (
            lambda b, s, q, c: rescored_nms(b, s, q, c, 0.5) + 0,
            (boxes[0], nms_scores[0], quality[0], labels[0]),
        ),
        "batched_rescored_nms": (
            lambda *t: batched_rescored_nms(*t, 0.5, score_threshold=0.1, pre_nms_top_k=9, max_detections=6),
            (boxes, nms_scores, quality, labels),
        ),
    }


NAMES = list(programs(4))


def tensors(result):
    return list(result) if isinstance(result, tuple) else [result]


@pytest.mark.parametrize("name", NAMES)
def test_compile_is_eager_in_one_graph(device, name):
    """fullgraph, dynamic shapes, forward and backward; a second size must not compile a second graph."""
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(programs(4)[name][0], fullgraph=True, dynamic=True, backend=counter)
    for size in (12, 17, 30):
        function, inputs = programs(size)[name]
        inputs = move(device, inputs)
        for ours, theirs in zip(tensors(compiled(*inputs)), tensors(function(*inputs)), strict=True):
            same_bits(ours.detach(), theirs.detach())
            if theirs.requires_grad:
                grads = [torch.autograd.grad(t.sum(), inputs[0])[0] for t in (ours, theirs)]
                same_bits(*grads)
    assert counter.frame_count == 1


class Postprocess(torch.nn.Module):
    """What a detector exports: rescored NMS of fixed size, then the IoUs of the kept boxes."""

    def forward(self, boxes, scores, quality, labels):
        kept = batched_rescored_nms(
            boxes, scores, quality, labels, 0.5, score_threshold=0.05, max_detections=5
        )
        best = boxes.gather(1, kept.keep.clamp(min=0)[..., None].expand(-1, -1, 4))
        return kept.keep, kept.scores, kept.counts, box_iou(best[0], boxes[0])


class Labelling(torch.nn.Module):
    def forward(self, scores, ious, ids, baseline):
        labels = mutual_labels(scores, ious, ids, baseline, 3, alpha=0.5)
        return labels.cls_labels, labels.loc_weights, segmented_otsu(ious, ids, 3)


@pytest.mark.parametrize(
    ("module", "make"),
    [(Postprocess(), lambda n: nms_inputs(2, n)), (Labelling(), lambda n: group_inputs(n, 3))],
    ids=["postprocess", "labelling"],
)
def test_export(device, module, make):
    size = torch.export.Dim("n", min=6, max=4096)
    dimension = 1 if isinstance(module, Postprocess) else 0
    program = torch.export.export(
        module, tuple(on(device, *make(12))), dynamic_shapes=[{dimension: size}] * 4
    )
    assert any("mlc_ext" in str(node.target) for node in program.graph.nodes)
    for n in (12, 31):
        inputs = on(device, *make(n))
        for ours, theirs in zip(program.module()(*inputs), module(*inputs), strict=True):
            same_bits(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_autocast_computes_in_float32(device, name):
    function, inputs = programs(12)[name]
    halves = [t.detach().bfloat16() if t.is_floating_point() else t for t in move(device, inputs)]
    with torch.autocast(device, dtype=torch.bfloat16):
        results = tensors(function(*halves))
    expected = tensors(function(*(t.float() if t.is_floating_point() else t for t in halves)))
    for ours, theirs in zip(results, expected, strict=True):
        same_bits(ours, theirs)


@pytest.mark.filterwarnings("ignore:.*performance drop.*")
def test_vmap_is_a_loop(device):
    """No batching rules: torch falls back to one call a sample, which is slow and right."""
    boxes1, boxes2 = (random_boxes(12, rng(s), extent=20).view(3, 4, 4).to(device) for s in (0, 1))
    same_bits(torch.vmap(box_iou)(boxes1, boxes2), torch.stack(list(map(box_iou, boxes1, boxes2))))
    values, ids = torch.rand(3, 10, device=device), torch.arange(10, device=device) % 2
    result = torch.vmap(lambda v: segmented_otsu(v, ids, 2))(values)
    same_bits(result, torch.stack([segmented_otsu(v, ids, 2) for v in values]))


@pytest.mark.filterwarnings("ignore:.*performance drop.*")
def test_vmap_refuses_results_of_different_lengths(device):
    boxes = torch.tensor([[[0.0, 0, 4, 4], [0, 0, 4, 4]], [[0, 0, 4, 4], [9, 9, 12, 12]]], device=device)
    scores = torch.tensor([0.5, 0.75], device=device)
    with pytest.raises(RuntimeError):
        torch.vmap(lambda b: rescored_nms(b, scores, None, None, 0.5))(boxes)


def test_fakes_need_no_data():
    """On meta tensors every operator gives shapes; the one whose length depends on data says so."""
    scores, ious, ids, baseline = (t.to("meta") for t in group_inputs(20, 3))
    assert segmented_otsu(scores, ids, 3).shape == (3,)
    assert [t.shape for t in mutual_labels(scores, ious, ids, baseline, 3, alpha=1.0)] == [(20,)] * 4 + [
        (3,)
    ] * 2
    boxes, nms_scores, quality, labels = (t.to("meta") for t in nms_inputs(2, 9))
    result = batched_rescored_nms(boxes, nms_scores, quality, labels, 0.5, max_detections=4)
    assert [t.shape for t in result] == [(2, 4), (2, 4), (2,)]
    assert all(t.device.type == "meta" for t in result)
    with pytest.raises((NotImplementedError, RuntimeError)):
        rescored_nms(boxes[0], nms_scores[0], None, None, 0.5)
