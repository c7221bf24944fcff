"""Matcher: torchvision's anchor matching without the matrix of IoUs."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection import _utils as det_utils
from torchvision.models.detection.rpn import RegionProposalNetwork

from ..._dtypes import common_dtype
from ...ops import match_boxes
from .common import Converted, become, matched_of


class BoxPair(NamedTuple):
    """The arguments of :class:`Matcher`, which computes no IoU matrix: ``BoxPair(gt_boxes, anchors)``, where
    torchvision's code calls ``box_iou(gt_boxes, anchors)``."""

    gt_boxes: Tensor
    """[M, 4] xyxy."""
    priors: Tensor
    """[N, 4] xyxy."""


class Matcher(det_utils.Matcher):  # type: ignore[misc]  # of a package without types
    """torchvision's Matcher on :func:`mlc_ext.match_boxes`: memory O(M + N), not M x N.

    Not torchvision's signature: it is called with a :class:`BoxPair`, because a matrix that is passed has been
    computed already. :func:`use_matcher` puts it into a model; in an RPN two attributes do::

        rpn.box_similarity, rpn.proposal_matcher = BoxPair, Matcher(0.7, 0.3, allow_low_quality_matches=True)

    Results are those of torchvision's, with one exception: a gt that overlaps no prior forces no match, where
    torchvision's Matcher makes every prior without a match positive. TorchScript cannot compile it; the operator,
    ``torch.ops.mlc_ext.match_boxes``, can be called in TorchScript.

    Args:
        high_threshold, low_threshold, allow_low_quality_matches: as torchvision's.
    """

    def __call__(self, boxes: BoxPair) -> Tensor:
        """Matches priors to gts.

        Args:
            boxes: gts and priors.

        Returns:
            [N] int64: the gt; -1 for background (BELOW_LOW_THRESHOLD), -2 for ignored (BETWEEN_THRESHOLDS).

        Raises:
            TypeError: ``boxes`` is no :class:`BoxPair`. ValueError: there is no gt or no prior, as in torchvision.
        """
        if not isinstance(boxes, BoxPair):
            raise TypeError(f"Matcher: a BoxPair of gt boxes and priors is needed, got {type(boxes).__name__}")
        # under autocast the anchors are in half precision, the gts are not
        dtype = common_dtype(boxes.gt_boxes, boxes.priors)
        gt_boxes, priors = boxes.gt_boxes.to(dtype), boxes.priors.to(dtype)
        if len(gt_boxes) == 0 or len(priors) == 0:
            missing = "ground-truth" if len(gt_boxes) == 0 else "proposal"
            raise ValueError(f"No {missing} boxes available for one of the images during training")
        labels, gt, _ = match_boxes(
            priors,
            gt_boxes,
            torch.arange(2, device=priors.device) * len(gt_boxes),
            high=self.high_threshold,
            low=self.low_threshold,
            forced="own_best" if self.allow_low_quality_matches else None,
        )
        unmatched = torch.where(labels == 0, self.BELOW_LOW_THRESHOLD, self.BETWEEN_THRESHOLDS)
        return torch.where(labels == 1, gt, unmatched)[0]


class MatchingRetinaNetMixin(Converted):
    """RetinaNet that gives its matcher a BoxPair."""

    @torch.jit.unused
    def compute_loss(
        self, targets: list[dict[str, Tensor]], head_outputs: dict[str, Tensor], anchors: list[Tensor]
    ) -> dict[str, Tensor]:
        """torchvision's, without the matrix of IoUs."""
        matched = matched_of(self.proposal_matcher, BoxPair, anchors, targets)
        losses: dict[str, Tensor] = self.head.compute_loss(targets, head_outputs, anchors, matched)
        return losses


def use_matcher(model: nn.Module) -> nn.Module:
    """Exchanges the matcher of a RetinaNet or of a model's RPN for a :class:`Matcher` of its thresholds, in place.

    Before or after :func:`apply_mlc`. The RoI heads keep theirs: their 2,000 proposals per image make a small matrix.

    Args:
        model: RetinaNet, RegionProposalNetwork or a model with one as ``rpn``.

    Returns:
        ``model``.

    Raises:
        TypeError: another model, or its matcher is not of torchvision's class.
    """
    target = model if isinstance(model, RetinaNet | RegionProposalNetwork) else getattr(model, "rpn", None)
    if not isinstance(target, RetinaNet | RegionProposalNetwork):
        raise TypeError(f"use_matcher: model must be a RetinaNet or have an RPN, got {type(model).__name__}")
    old = target.proposal_matcher
    if type(old) is not det_utils.Matcher:
        kind = f"{type(old).__module__}.{type(old).__name__}"
        raise TypeError(f"use_matcher: the matcher must be torchvision's Matcher, got {kind}")
    if isinstance(target, RetinaNet):
        become(target, MatchingRetinaNetMixin, ["compute_loss"])
    else:
        target.box_similarity = BoxPair
    target.proposal_matcher = Matcher(old.high_threshold, old.low_threshold, old.allow_low_quality_matches)
    return model
