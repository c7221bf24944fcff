"""What the conversions of torchvision's detectors share."""

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...assignment import Assignment
from .._candidates import nearest_gts
from .._state import State

FIRST_LABEL = 0
"""torchvision's class column is the label itself; column 0 is the background's and not used."""


class Converted(nn.Module):
    """Base of the classes that :func:`become` puts before a module's own class."""

    if TYPE_CHECKING:  # at run time TorchScript would read them
        _mlc: State

        def __getattr__(self, name: str) -> Any: ...  # an attribute of torchvision's class

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


def per_prior(x: Tensor, size: int) -> Tensor:
    """[B, A * size, H, W] of a level -> [B, H * W * A, size], torchvision's order."""
    b, _, h, w = x.shape
    return x.view(b, -1, size, h, w).permute(0, 3, 4, 1, 2).reshape(b, -1, size)


def flat_levels(levels: list[Tensor], size: int) -> Tensor:
    """[B, A * size, H, W] of each level -> [B, sum(H * W * A), size]."""
    return torch.cat([per_prior(level, size) for level in levels], dim=1)


def ignored_are_candidates(state: State) -> bool:
    """Whether the anchors between the Matcher's thresholds are candidates; by default they are."""
    return state.mutual and state.config.candidates_of("all") == "all"


def assignment_of(
    matched: list[Tensor], anchors: list[Tensor], targets: list[dict[str, Tensor]], *, with_ignored: bool
) -> Assignment:
    """The assignment of torchvision's Matcher.

    Args:
        matched: [A] of each image, the Matcher's output.
        anchors: [A, 4] of each image. Those of the first serve all: torchvision's AnchorGenerator gives one set.
        with_ignored: of :func:`ignored_are_candidates`. Each is a candidate of the gt of its largest IoU, which the
            Matcher does not return.
    """
    candidates = None
    if with_ignored:
        candidates = list(nearest_gts(anchors[0].float(), [target["boxes"] for target in targets]))
    counts = [len(target["boxes"]) for target in targets]
    return Assignment.from_matched(matched, num_gts=counts, convention="torchvision", candidates=candidates)


def gts_of(targets: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """Boxes [K, 4] and labels [K] int64 of the batch."""
    boxes = torch.cat([target["boxes"] for target in targets])
    return boxes.float(), torch.cat([target["labels"].to(torch.int64) for target in targets])


def matched_of(
    matcher: Any, similarity: Callable[[Tensor, Tensor], Any], anchors: list[Tensor], targets: list[dict[str, Tensor]]
) -> list[Tensor]:
    """[A] of each image: what ``matcher`` returns for ``similarity(gt_boxes, anchors)``.

    All background in an image without boxes, for which torchvision's Matcher raises an error.
    """
    matched = []
    for priors, target in zip(anchors, targets, strict=True):
        if len(target["boxes"]) == 0:
            matched.append(torch.full((len(priors),), -1, dtype=torch.int64, device=priors.device))
        else:
            matched.append(matcher(similarity(target["boxes"], priors)))
    return matched
