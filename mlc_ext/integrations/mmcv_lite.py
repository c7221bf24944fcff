"""MMCV's operators for mmcv-lite, as far as dense detectors need them.

mmcv-lite has the Python code of ``mmcv.ops`` without its compiled module ``mmcv._ext``, so that MMDetection does not
import ("No module named 'mmcv._ext'"). This module puts a replacement of ``mmcv._ext`` in its place: NMS, the sigmoid
focal loss and RoIAlign work; every other operator raises an error when it is called. With the full mmcv nothing is
replaced.

In a config, before other imports of MMDetection::

    custom_imports = dict(imports=["mlc_ext.integrations.mmcv_lite", "mlc_ext.integrations.mmdet"])

For a program that imports MMDetection's models before it reads its config::

    python -m mlc_ext.integrations.mmcv_lite tools/train.py CONFIG
"""

import importlib.machinery
import importlib.util
import runpy
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..ops import rescored_nms

_NAME = "mmcv._ext"


class _Operators(types.ModuleType):
    """The replacement of ``mmcv._ext``."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # read by the import system
            raise AttributeError(name)

        def missing(*_: Any, **__: Any) -> None:
            raise ImportError(
                f"mmcv-lite does not have the operator {name}, and mlc_ext.integrations.mmcv_lite does not replace it: "
                "install the full mmcv"
            )

        return missing

    @staticmethod
    def get_compiler_version() -> str:  # MMDetection prints both in its report of the environment
        return "n/a"

    @staticmethod
    def get_compiling_cuda_version() -> str:
        return "n/a"

    @staticmethod
    def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
        """[n] int64 indices of the kept boxes, highest score first. Equal scores keep the lower index first. Boxes of
        score -inf are never kept."""
        if offset != 0:
            raise ValueError(f"nms: offset must be 0 without the full mmcv, got {offset}")
        return rescored_nms(boxes.float(), scores.float(), None, None, iou_threshold=iou_threshold)

    @staticmethod
    def sigmoid_focal_loss_forward(
        logits: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
    ) -> None:
        output.copy_(_focal_loss(logits, target, weight, gamma, alpha))

    @staticmethod
    def sigmoid_focal_loss_backward(
        logits: Tensor, target: Tensor, weight: Tensor, grad: Tensor, gamma: float, alpha: float
    ) -> None:
        with torch.enable_grad():
            x = logits.detach().float().requires_grad_()
            total = _focal_loss(x, target, weight, gamma, alpha).sum()
            grad.copy_(torch.autograd.grad(total, x)[0])

    @staticmethod
    def roi_align_forward(
        features: Tensor,
        rois: Tensor,
        output: Tensor,
        argmax_y: Tensor,
        argmax_x: Tensor,
        aligned_height: int,
        aligned_width: int,
        spatial_scale: float,
        sampling_ratio: int,
        pool_mode: int,
        aligned: bool,
    ) -> None:
        if pool_mode != 1:  # 0 is the maximum
            raise ImportError("RoIAlign with pool_mode='max' needs the full mmcv")
        size = aligned_height, aligned_width
        output.copy_(
            _torchvision_ops().roi_align(
                features, rois.to(features.dtype), spatial_scale, *size, sampling_ratio, aligned
            )
        )

    @staticmethod
    def roi_align_backward(
        grad_output: Tensor,
        rois: Tensor,
        argmax_y: Tensor,
        argmax_x: Tensor,
        grad: Tensor,
        aligned_height: int,
        aligned_width: int,
        spatial_scale: float,
        sampling_ratio: int,
        pool_mode: int,
        aligned: bool,
    ) -> None:
        size = aligned_height, aligned_width
        grad.copy_(
            _torchvision_ops()._roi_align_backward(
                grad_output.contiguous(),
                rois.to(grad_output.dtype),
                spatial_scale,
                *size,
                *grad.shape,
                sampling_ratio,
                aligned,
            )
        )


def _focal_loss(logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    """[N, C] elements, of at least float32. target: [N] int64, C for background. weight: MMDetection passes none."""
    if weight.numel() > 0:
        raise ImportError("a focal loss with class weights needs the full mmcv")
    x = logits if logits.dtype == torch.float64 else logits.float()
    own = target[:, None] == torch.arange(x.shape[1], device=x.device)
    z = torch.where(own, -x, x)
    return z.sigmoid() ** gamma * torch.nn.functional.softplus(z) * torch.where(own, alpha, 1 - alpha)


def _torchvision_ops() -> Any:
    import torchvision  # noqa: F401  # it registers the operators

    return torch.ops.torchvision


def install() -> bool:
    """Replaces ``mmcv._ext`` if the installed mmcv has none.

    Returns:
        Whether it is replaced, now or since an earlier call.

    Raises:
        ImportError: neither mmcv nor mmcv-lite is installed.
    """
    if isinstance(sys.modules.get(_NAME), _Operators):
        return True
    if importlib.util.find_spec("mmcv") is None:
        raise ImportError("mlc_ext.integrations.mmcv_lite: install mmcv-lite==2.1.0 first")
    if importlib.util.find_spec(_NAME) is not None:
        return False
    module = _Operators(_NAME, "Replaced by mlc_ext.integrations.mmcv_lite.")
    # without a loader: for MMEngine it is still mmcv-lite
    module.__spec__ = importlib.machinery.ModuleSpec(_NAME, None)
    sys.modules[_NAME] = module
    return True


def _run() -> None:
    """``python -m mlc_ext.integrations.mmcv_lite``: runs a program as ``python PROGRAM.py`` does."""
    if len(sys.argv) < 2:
        sys.exit("usage: python -m mlc_ext.integrations.mmcv_lite PROGRAM.py [ARGUMENT...]")
    sys.argv = sys.argv[1:]
    if not getattr(sys.flags, "safe_path", False):  # of Python 3.11
        sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    from . import mmcv_lite  # the module of this name, which the program may import as well

    mmcv_lite._run()
else:
    install()
