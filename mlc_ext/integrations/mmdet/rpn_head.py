"""RPN's head with mutual labeling and IoU rescoring."""

from typing import Any

from mmdet.models.dense_heads import RPNHead
from mmdet.registry import MODELS
from torch import Tensor

from .._iou_layer import IoULayer
from .anchor_head import MLCAnchorHead


@MODELS.register_module()
class MLCRPNHead(MLCAnchorHead, RPNHead):  # type: ignore[misc]
    """RPNHead with mutual labeling and IoU rescoring, standalone or in a two-stage detector.

    With mutual labeling each task is sampled separately, in proportion to the anchors' weights. Proposals are ranked by
    objectness x IoU. A checkpoint of RPNHead loads; ``conv_iou`` then is new, and does not rank until it has
    been trained.

    Args: as RPNHead, and those of :class:`MLCHead`; ``topk_by_product`` is ignored.

    Raises: as :class:`MLCAnchorHead`.
    """

    detector = "rpn"
    has_score_threshold = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.topk_by_product = True

    def _init_layers(self) -> None:
        super()._init_layers()
        if self.state.config.iur:
            self.conv_iou = IoULayer(self.rpn_reg)

    def forward_single(self, x: Tensor) -> tuple[Tensor, ...]:
        """Logits [B, A, H, W], deltas [B, A * 4, H, W] and, with ``mlc.iur``, the IoU's logits [B, A, H, W]."""
        if not self.state.config.iur:
            return super().forward_single(x)  # type: ignore[no-any-return]
        x = self.rpn_conv(x).relu()
        return self.rpn_cls(x), self.rpn_reg(x), self.conv_iou(x)

    def loss_by_feat(
        self, cls_scores: list[Tensor], bbox_preds: list[Tensor], *rest: Any, **named: Any
    ) -> dict[str, Tensor]:
        """RPNHead's losses ``loss_rpn_cls`` and ``loss_rpn_bbox``, and ``loss_rpn_iou``."""
        losses = super().loss_by_feat(cls_scores, bbox_preds, *rest, **named)
        return {name if "_rpn_" in name else name.replace("loss_", "loss_rpn_"): x for name, x in losses.items()}
