"""No operator of a fixed shape, and nothing in the criterion, makes the host wait for the GPU."""

import contextlib

import pytest
import torch
import torch.utils._pytree as pytree
from assigner_cases import random_batch
from comparisons import on
from cuda_programs import PROGRAMS
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mlc_ext import (
    ATSSAssigner,
    AutoAssignCriterion,
    MALAssigner,
    MLCConfig,
    PAAAssigner,
    Predictions,
    SimOTAAssigner,
    TaskAlignedAssigner,
)
from mlc_ext.detectors.models.fcos import FCOS
from mlc_ext.detectors.models.retinanet import RetinaNet
from mlc_ext.detectors.models.targets import prepare_targets

BUSY_CYCLES = 400_000_000
"""0.2 s of a GPU's clock."""

every_program = pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)


def check_no_wait(run) -> None:
    """`run` is queued while the GPU is busy and comes back before it is idle; torch's own watch raises besides.

    The watch knows of torch's synchronizations alone, the busy GPU of all.
    """
    run()  # memory is allocated, modules are loaded
    torch.cuda.synchronize()
    idle = torch.cuda.Event()
    torch.cuda._sleep(BUSY_CYCLES)
    idle.record()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not idle.query(), "the host came back when the GPU was idle: it has waited"
    torch.cuda.synchronize()


@every_program
def test_operators(cuda, program):
    inputs = on(cuda, *program.make(0, program.size))
    check_no_wait(lambda: program.run(*inputs))


def detector(kind, mlc, device):
    torch.manual_seed(0)
    options = {"backbone": "resnet18", "mlc": mlc, "fpn_channels": 32, "num_convs": 1}
    return kind(5, **options).to(device).train()


def images_and_targets(device):
    g = torch.Generator().manual_seed(0)
    corners = torch.rand(3, 2, generator=g) * 60
    boxes = torch.cat([corners, corners + 30], 1)
    target = {"boxes": boxes, "labels": torch.tensor([1, 5, 2])}
    return [torch.rand(3, 128, 128, generator=g).to(device) for _ in range(2)], [target, target]


@pytest.mark.parametrize("kind", [FCOS, RetinaNet])
def test_criteria_of_the_detectors(cuda, kind):
    """From the head's outputs to the losses and back."""
    model = detector(kind, MLCConfig(start_epoch=0, alpha=0.5), cuda)
    images, targets = images_and_targets(cuda)
    with torch.no_grad():
        outputs, sizes, _ = model.head_outputs(images)
    prepared = prepare_targets(targets, len(images), torch.device(cuda), 5)

    def run():
        leaves = {key: value.detach().requires_grad_() for key, value in outputs.items()}
        sum(model.losses(leaves, sizes, prepared).values()).backward()

    check_no_wait(run)


def assign_on(device, kind, make):
    """-> a call of an assigner or a criterion on inputs that ``make(tensor)`` puts on the device."""
    anchors, points, targets, predictions = random_batch(1)
    if kind is AutoAssignCriterion:
        assigner = kind(5, first_label=0).to(device)
    else:
        assigner = kind() if kind is ATSSAssigner else kind(first_label=0)
    priors = [make(level) for level in (points if kind in (SimOTAAssigner, AutoAssignCriterion) else anchors)]
    targets = [{key: make(value) for key, value in target.items()} for target in targets]
    leaves = (predictions.cls_logits, predictions.boxes, predictions.objectness_logits)
    leaves = [make(leaf).requires_grad_() for leaf in leaves]

    def run():
        found = assigner(priors, targets, Predictions(*leaves))
        if kind is AutoAssignCriterion:
            sum(found.values()).backward()

    return run


every_kind = pytest.mark.parametrize(
    "kind",
    [ATSSAssigner, TaskAlignedAssigner, SimOTAAssigner, PAAAssigner, MALAssigner, AutoAssignCriterion],
)


@every_kind
def test_assigners(cuda, kind):
    check_no_wait(assign_on(cuda, kind, lambda x: x.to(cuda)))


def test_the_watch_itself(cuda):
    """Both ways of noticing do notice: an operator whose length depends on its values, and its own copy to the host."""
    from mlc_ext import rescored_nms

    boxes = torch.rand(100, 4, device=cuda)
    with pytest.raises(RuntimeError, match="synchroniz"):
        check_no_wait(lambda: boxes.sum().item())
    with pytest.raises(AssertionError, match="has waited"):
        check_no_wait(lambda: rescored_nms(boxes, boxes[:, 0], None, None, 0.5))


class HostWatch(TorchDispatchMode):
    """Tensors without values (meta) in the GPU's place: a value that the host asks for is torch's error, and a copy of
    more than a number to or from them is one here, unless the host does not wait for it (non_blocking)."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        devices = {
            t.device.type
            for t in pytree.tree_leaves([args, kwargs, result])
            if isinstance(t, torch.Tensor) and t.dim() > 0
        }
        copied = func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_, torch.ops.aten.lift_fresh)
        if copied and devices == {"cpu", "meta"} and not (kwargs or {}).get("non_blocking"):
            raise AssertionError(f"the host waits for {func}")
        return result


class ListWatch(TorchFunctionMode):
    """A tensor of a list made on the GPU: a copy below what HostWatch sees."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor) and result.device.type == "meta":
            raise AssertionError(f"the host waits for {func.__name__} of a list")
        return result


@contextlib.contextmanager
def watched():
    with HostWatch(), ListWatch():
        yield


def valueless(named):
    return {key: torch.empty_like(value, device="meta") for key, value in named.items()}


class TestWithoutAGpu:
    @every_program
    def test_operators(self, program):
        inputs = [torch.empty_like(t, device="meta") for t in program.make(0, 50)]
        with watched():
            program.run(*inputs)

    @every_kind
    def test_assigners(self, kind):
        run = assign_on("meta", kind, lambda x: torch.empty_like(x, device="meta"))
        with watched():
            run()

    def test_the_watch_itself(self):
        some = torch.empty(3, device="meta")
        with watched():
            torch.tensor([1.0, 2.0]).to("meta", non_blocking=True)
            torch.where(some > 0, some, 0)
            with pytest.raises(AssertionError, match="host waits"):
                torch.tensor([1.0, 2.0]).to("meta")
            with pytest.raises(AssertionError, match="of a list"):
                torch.tensor([1.0], device="meta")
            with pytest.raises(AssertionError, match="of a list"):
                some.new_tensor((1.0, 2.0))
            with pytest.raises(Exception, match="item"):
                some.sum().item()

    @pytest.mark.parametrize("kind", [FCOS, RetinaNet])
    def test_criteria_of_the_detectors(self, kind):
        model = detector(kind, MLCConfig(start_epoch=0, alpha=0.5), "cpu")
        images, targets = images_and_targets("cpu")
        outputs, sizes, _ = model.head_outputs(images)
        targets = [valueless(target) for target in prepare_targets(targets, len(images), torch.device("cpu"), 5)]
        priors = [torch.empty_like(p, device="meta") for p in model.priors(sizes, outputs["bbox_regression"])]
        model.priors = lambda *_: priors  # made once a device, at the first step
        leaves = {key: value.detach().requires_grad_() for key, value in valueless(outputs).items()}
        with watched():
            sum(model.losses(leaves, sizes, targets).values()).backward()
        assert all(leaf.grad is not None for leaf in leaves.values())
