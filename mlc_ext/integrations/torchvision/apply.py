"""apply_mlc: mutual labeling and IoU rescoring in a torchvision detector, in place."""

from typing import Any

from torch import nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.rpn import RegionProposalNetwork

from ...config import MLCConfig
from .._state import State
from . import fcos, retinanet, rpn

_DETECTORS = (
    (FCOS, "fcos", fcos.convert),
    (RetinaNet, "retinanet", retinanet.convert),
    (RegionProposalNetwork, "rpn", rpn.convert),
)
_HOW = "apply_mlc: set_epoch(model, epoch) has not been called."


def apply_mlc(model: nn.Module, config: MLCConfig | None = None, **options: Any) -> nn.Module:
    """Adds mutual labeling and IoU rescoring to a detector of torchvision, in place.

    Classes are exchanged for subclasses of themselves: ``isinstance`` holds, and the matcher, sampler, box coder, box
    loss and normalizers of the model stay in use. Call it before the optimizer is built and before the model is wrapped
    (DistributedDataParallel, torch.compile). Call :func:`set_epoch` in every epoch. Until mutual labeling starts
    (``config.start_epoch``) and the IoU is trained (``config.rescoring_start``), the losses are torchvision's, plus
    prediction alignment if ``config.alignment`` is above 0. Labels are torchvision's: the label is the class column.

    - FCOS: nothing is added to the state_dict. ``bbox_ctrness`` predicts the centerness; with ``iur`` the IoU from
      ``config.rescoring_start`` on.
    - RetinaNet, and the RPN of Faster, Mask and Keypoint R-CNN: with ``iur`` one layer, ``iou_logits``, is added. A
      checkpoint of the plain model loads and resets the layer, which then does not affect the ranking until trained.

    ``torch.compile`` with inductor: compile ``model.backbone`` and ``model.head``. A whole model fails in torchvision
    0.26's own resizing, converted or not. ``torch.jit.script`` works for inference; a scripted model raises an error in
    training.

    Args:
        model: FCOS, RetinaNet, RegionProposalNetwork or a model with one as ``rpn``.
        config: None for ``MLCConfig.paper(...)`` of the detector with ``options``.
        options: fields of :class:`mlc_ext.MLCConfig`, e.g. ``start_epoch=8, iur=False``.

    Returns:
        ``model``.

    Raises:
        TypeError: another model; a subclass that has a method of its own where the conversion needs torchvision's; or
        ``config`` and ``options`` together. ValueError: the model is converted already, or a setting is out of range.
    """
    target = model if isinstance(model, tuple(kind for kind, *_ in _DETECTORS)) else getattr(model, "rpn", None)
    for kind, name, convert in _DETECTORS:
        if isinstance(target, kind):
            if config is not None and options:
                raise TypeError(f"apply_mlc: config or options, not both; got both, with {', '.join(options)}")
            if any(_states(target)):
                raise ValueError("apply_mlc: the model is converted already")
            state = State(MLCConfig.paper(name, **options) if config is None else config, _HOW)
            if state.config.candidates == "own_levels":
                raise ValueError("apply_mlc: candidates 'own_levels' is not available for torchvision's detectors")
            convert(target, state)
            return model
    raise TypeError(
        "apply_mlc: model must be torchvision's FCOS or RetinaNet, or have a RegionProposalNetwork as its rpn, and not "
        f"be wrapped; got {type(model).__name__}"
    )


def set_epoch(model: nn.Module, epoch: float) -> None:
    """Sets how many epochs a converted model has been trained. It switches mutual labeling and IoU rescoring on.

    Args:
        model: converted by :func:`apply_mlc`; it may be wrapped since.
        epoch: a fraction counts as a part of an epoch.

    Raises:
        ValueError: no part of the model is converted.
    """
    states = _states(model)
    if not states:
        raise ValueError("set_epoch: call apply_mlc on the model first")
    for state in states:
        state.set_epoch(epoch)


def _states(model: nn.Module) -> list[State]:
    found = (vars(module).get("_mlc") for module in model.modules())
    return [state for state in found if isinstance(state, State)]
