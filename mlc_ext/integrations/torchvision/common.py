"""What the conversions of torchvision's detectors share."""

import dataclasses
import inspect
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...assignment import Assignment
from ...config import MLCConfig
from ...ops import match_boxes

FIRST_LABEL = 0
"""torchvision's class column is the label itself; column 0 is the background's and not used."""


@dataclasses.dataclass
class State:
    """Settings and progress, one object for all parts of a converted model. Not a part of the state_dict."""

    config: MLCConfig
    mutual: bool = False
    """Whether mutual labeling is in force."""
    rescoring: bool = False
    """Whether the IoU layer is trained."""
    epoch_is_set: bool = False

    def __post_init__(self) -> None:
        self._start(0.0)

    def set_epoch(self, epoch: float) -> None:
        self.epoch_is_set = True
        self._start(epoch)

    def _start(self, epoch: float) -> None:
        # two flags instead of the epoch: torch.compile would compile again for every value of it
        self.mutual = self.config.ml and epoch >= self.config.start_epoch
        self.rescoring = self.config.iur and epoch >= self.config.rescoring_start

    def warn_without_epoch(self) -> None:
        """A warning, once, if the model trains and the script has not called set_epoch."""
        waiting = (self.config.ml and not self.mutual) or (self.config.iur and not self.rescoring)
        if waiting and not self.epoch_is_set:
            self.epoch_is_set = True
            warnings.warn(
                "apply_mlc: set_epoch(model, epoch) has not been called. The model trains as its baseline until it is "
                f"called with an epoch of at least {self.config.start_epoch:g}",
                stacklevel=2,
            )


class Converted(nn.Module):
    """Base of the classes that :func:`become` puts before a module's own class."""

    if TYPE_CHECKING:  # at run time TorchScript would read them
        _mlc: State

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # the class exists in this process only: copies and pickles make it again from its parts
        reduced: Any = super().__reduce_ex__(max(int(protocol), 2))
        return (_new, type(self)._mlc_parts, *reduced[2:])  # type: ignore[attr-defined]


def become(module: nn.Module, mixin: type[Converted], replaced: Sequence[str]) -> None:
    """Exchanges a module's class, in place, for a subclass of itself and ``mixin``.

    Args:
        replaced: the methods of torchvision's class that ``mixin`` replaces.

    Raises:
        TypeError: the module's class has one of these methods from elsewhere, which would be lost.
    """
    own = type(module)
    for name in replaced:
        defined_in = next(cls.__module__ for cls in own.__mro__ if name in cls.__dict__)
        if not defined_in.startswith(("torchvision.", "mlc_ext.")):
            raise TypeError(
                f"apply_mlc: {own.__name__}.{name} is defined in {defined_in}, not in torchvision; the conversion "
                "would replace it"
            )
    module.__class__ = _converted_class(*getattr(own, "_mlc_parts", (own,)), mixin)


_classes: dict[tuple[type, ...], type] = {}  # one class for each combination, as isinstance and torch.compile need


def _converted_class(base: type, *mixins: type[Converted]) -> type:
    """A subclass of ``base`` with the mixins, the last one first."""
    own = base
    for i, mixin in enumerate(mixins):
        parts = (own, *mixins[: i + 1])
        if parts not in _classes:
            namespace = {
                "__module__": __name__,
                "__doc__": own.__doc__,
                "__annotations__": _annotations(own),  # TorchScript reads the attributes' types here
                "_mlc_parts": parts,
            }
            _classes[parts] = type(f"MLC{own.__name__}", (mixin, base), namespace)
        base = _classes[parts]
    return base


def _annotations(cls: type) -> dict[str, Any]:
    found = (inspect.get_annotations(base) for base in cls.__mro__)
    return next((annotations for annotations in found if annotations), {})


def _new(base: type, *mixins: type[Converted]) -> Any:
    cls: Any = _converted_class(base, *mixins)
    return cls.__new__(cls)


class IoULayer(nn.Conv2d):
    """The convolution that predicts the IoU. It has a flag in its state: whether it has been trained.

    A checkpoint of the plain detector does not have its keys. It loads, with ``strict=True`` too, and sets the layer to
    a new initial state, in which detections are ranked without it.
    """

    trained: Tensor

    def __init__(self, beside: nn.Conv2d) -> None:
        """One output per anchor, as ``beside``, the box layer on the same tower, has four."""
        super().__init__(
            beside.in_channels,
            beside.out_channels // 4,
            beside.kernel_size,  # type: ignore[arg-type]
            padding=beside.padding,  # type: ignore[arg-type]
            device=beside.weight.device,
            dtype=beside.weight.dtype,
        )
        # floating point, so that averages of models and their buffers are possible
        self.register_buffer("trained", torch.zeros((), device=beside.weight.device))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.01)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if any(f"{prefix}{name}" in state_dict for name in self.state_dict()):
            super()._load_from_state_dict(state_dict, prefix, *rest)
        else:
            with torch.no_grad():
                self.reset_parameters()
                self.trained.zero_()


def per_prior(x: Tensor, size: int) -> Tensor:
    """[B, A * size, H, W] of a level -> [B, H * W * A, size], torchvision's order."""
    b, _, h, w = x.shape
    return x.view(b, -1, size, h, w).permute(0, 3, 4, 1, 2).reshape(b, -1, size)


def offsets_of(targets: list[dict[str, Tensor]], device: torch.device) -> Tensor:
    """[B + 1] int64: where each image's gts begin among those of the batch."""
    counts = [0, *(len(target["boxes"]) for target in targets)]
    return torch.tensor(counts, pin_memory=device.type == "cuda").to(device, non_blocking=True).cumsum(0)


def assignment_of(
    matched: list[Tensor], anchors: list[Tensor], targets: list[dict[str, Tensor]], *, with_ignored: bool
) -> Assignment:
    """The assignment of torchvision's Matcher.

    Args:
        matched: [A] of each image, the Matcher's output.
        anchors: [A, 4] of each image. Those of the first serve all: torchvision's AnchorGenerator gives one set.
        with_ignored: whether the anchors between the Matcher's thresholds are candidates, each of the gt of its largest
            IoU, which the Matcher does not return.
    """
    candidates = None
    if with_ignored:
        priors, offsets = anchors[0].float(), offsets_of(targets, anchors[0].device)
        boxes = torch.cat([target["boxes"] for target in targets]).to(priors.dtype)
        best = match_boxes(priors, boxes, offsets, high=0.0, low=0.0, forced=None).candidate_gt
        candidates = list(torch.where(best >= 0, best - offsets[:-1, None], -1))
    counts = [len(target["boxes"]) for target in targets]
    return Assignment.from_matched(matched, num_gts=counts, convention="torchvision", candidates=candidates)


def gts_of(targets: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """Boxes [K, 4] and labels [K] int64 of the batch."""
    boxes = torch.cat([target["boxes"] for target in targets])
    return boxes.float(), torch.cat([target["labels"].to(torch.int64) for target in targets])


def gradient_through_boxes(config: MLCConfig) -> bool:
    """Whether a loss of the method has a gradient through the IoU of the decoded boxes."""
    return config.alignment > 0 or (config.iur and not config.detach_iou_target)
