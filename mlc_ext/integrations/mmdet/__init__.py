"""The method in MMDetection 3: heads, a hook and an assigner for configs.

A config that inherits from one of MMDetection's needs three lines::

    custom_imports = dict(imports=["mlc_ext.integrations.mmdet"])
    custom_hooks = [dict(type="MLCEpochHook")]
    model = dict(bbox_head=dict(type="MLCFCOSHead", mlc=dict(start_epoch=8)))

``MLCRetinaHead`` is for RetinaNet's ``bbox_head``, ``MLCRPNHead`` for the ``rpn_head`` of two-stage detectors and of
RPN, ``MLCMaxIoUAssigner`` for any ``assigner`` of type MaxIoUAssigner. ``mlc`` takes the fields of
:class:`mlc_ext.MLCConfig`; the default is ``MLCConfig.paper(...)`` of the detector.

It needs MMDetection 3.3. Without the full mmcv, import :mod:`mlc_ext.integrations.mmcv_lite` first.
"""

try:
    import mmdet.models  # noqa: F401
except ModuleNotFoundError as error:
    if error.name == "mmcv._ext":
        raise ImportError(
            "MMDetection does not import with mmcv-lite. Install the full mmcv, or import "
            "mlc_ext.integrations.mmcv_lite before it: custom_imports = "
            'dict(imports=["mlc_ext.integrations.mmcv_lite", "mlc_ext.integrations.mmdet"])'
        ) from error
    raise

from .fcos_head import MLCFCOSHead
from .hook import MLCEpochHook
from .max_iou_assigner import MLCMaxIoUAssigner
from .retina_head import MLCRetinaHead
from .rpn_head import MLCRPNHead

__all__ = ["MLCEpochHook", "MLCFCOSHead", "MLCMaxIoUAssigner", "MLCRPNHead", "MLCRetinaHead"]
