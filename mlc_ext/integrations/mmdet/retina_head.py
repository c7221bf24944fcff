"""RetinaNet's head with mutual labeling and IoU rescoring."""

from mmdet.models.dense_heads import RetinaHead
from mmdet.registry import MODELS
from torch import Tensor

from .._iou_layer import IoULayer
from .anchor_head import MLCAnchorHead


@MODELS.register_module()
class MLCRetinaHead(MLCAnchorHead, RetinaHead):  # type: ignore[misc]
    """RetinaHead with mutual labeling and IoU rescoring.

    A checkpoint of RetinaHead loads; ``conv_iou`` then is new, and does not rank until it has been trained.

    Args: as RetinaHead, and those of :class:`MLCHead`.
    """

    detector = "retinanet"

    def _init_layers(self) -> None:
        super()._init_layers()
        if self.state.config.iur:
            self.conv_iou = IoULayer(self.retina_reg)

    def forward_single(self, x: Tensor) -> tuple[Tensor, ...]:
        """Logits [B, A * C, H, W], deltas [B, A * 4, H, W] and, with ``mlc.iur``, the IoU's logits [B, A, H, W]."""
        if not self.state.config.iur:
            return super().forward_single(x)  # type: ignore[no-any-return]
        cls_feat = reg_feat = x
        for conv in self.cls_convs:
            cls_feat = conv(cls_feat)
        for conv in self.reg_convs:
            reg_feat = conv(reg_feat)
        return self.retina_cls(cls_feat), self.retina_reg(reg_feat), self.conv_iou(reg_feat)
