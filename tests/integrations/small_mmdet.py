"""Small heads of MMDetection, and random batches for them."""

from __future__ import annotations

import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

import mlc_ext.integrations.mmdet  # noqa: F401  (registers the heads)

NUM_CLASSES = 3
CHANNELS = 16
STRIDES = (8, 16, 32)
IMAGE = 96
TEST = {"nms_pre": 100, "score_thr": 0.01, "nms": {"type": "nms", "iou_threshold": 0.6}, "max_per_img": 50}
ANCHORS = {"type": "AnchorGenerator", "scales": [2, 4], "ratios": [0.5, 1.0, 2.0], "strides": STRIDES}
ASSIGNER = {"pos_iou_thr": 0.5, "neg_iou_thr": 0.4, "min_pos_iou": 0, "ignore_iof_thr": 0.5}


def build(kind: str, *, plain: bool = False, **changes):
    """A head: "FCOSHead", "RetinaHead" or "RPNHead", or with ``plain=False`` its MLC twin. Weights by seed 0."""
    settings = {"type": kind if plain else f"MLC{kind}", "in_channels": CHANNELS, "feat_channels": CHANNELS}
    if kind == "FCOSHead":
        settings |= {
            "num_classes": NUM_CLASSES,
            "strides": STRIDES,
            "regress_ranges": ((-1, 32), (32, 64), (64, 1e8)),
            "stacked_convs": 1,
            "norm_cfg": None,
        }
    else:
        train = {"assigner": {"type": "MaxIoUAssigner", **ASSIGNER}, "allowed_border": -1, "pos_weight": -1}
        settings |= {"anchor_generator": dict(ANCHORS), "train_cfg": train}
        settings |= {"loss_bbox": {"type": "L1Loss", "loss_weight": 1.0}}
    if kind == "RetinaHead":
        train["sampler"] = {"type": "PseudoSampler"}
        focal = {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25, "loss_weight": 1.0}
        settings |= {"num_classes": NUM_CLASSES, "stacked_convs": 1, "loss_cls": focal}
    if kind == "RPNHead":
        train["assigner"] |= {"pos_iou_thr": 0.7, "neg_iou_thr": 0.3, "min_pos_iou": 0.3}
        train["sampler"] = {"type": "RandomSampler", "num": 40, "pos_fraction": 0.5, "add_gt_as_proposals": False}
        settings |= {"loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0}}
    settings |= {"test_cfg": TEST | ({"min_bbox_size": 0} if kind == "RPNHead" else {})} | changes
    torch.manual_seed(0)
    head = MODELS.build(ConfigDict(settings))
    with torch.no_grad():  # outputs as large as those of a trained head
        for parameter in head.parameters():
            parameter.normal_(std=0.1)
    return head


def twins(kind: str, mlc: dict | None = None, **changes):
    """MMDetection's head and its twin with the same weights."""
    plain, ours = build(kind, plain=True, **changes), build(kind, mlc=mlc, **changes)
    ours.load_state_dict(plain.state_dict(), strict=True)
    return plain, ours


def batch(seed: int = 0, counts=(4, 0, 2), num_classes: int = NUM_CLASSES, ignored: bool = False):
    """-> features of each level, gt instances, image metas, ignored instances. The last image is smaller."""
    g = torch.Generator().manual_seed(seed)
    features = [torch.randn(len(counts), CHANNELS, -(-IMAGE // s), -(-IMAGE // s), generator=g) for s in STRIDES]
    gts, metas, ignore = [], [], []
    for i, count in enumerate(counts):
        corner = torch.rand(count, 2, generator=g) * IMAGE * 0.5
        size = 6 + torch.rand(count, 2, generator=g) * IMAGE * 0.5
        labels = torch.randint(0, num_classes, (count,), generator=g)
        gts.append(InstanceData(bboxes=torch.cat([corner, corner + size], 1), labels=labels))
        ignore.append(InstanceData(bboxes=torch.tensor([[30.0, 30.0, 90.0, 90.0]][: int(ignored)]).view(-1, 4)))
        side = IMAGE if i < len(counts) - 1 else 64
        metas.append({"img_shape": (side, side), "pad_shape": (side, side), "scale_factor": (1.0, 1.0)})
    return features, gts, metas, (ignore if ignored else None)


def losses_of(head, data) -> dict[str, torch.Tensor]:
    """Each loss of a batch as one scalar; sampling by seed 0."""
    features, gts, metas, ignore = data
    torch.manual_seed(0)
    found = head.loss_by_feat(*head(features), gts, metas, ignore)
    return {name: sum(value) if isinstance(value, list) else value for name, value in found.items()}


def flat_outputs(head, features, sizes) -> list[torch.Tensor]:
    """[B * A, size] of each output, detached."""
    outputs = head(features)
    return [
        torch.cat([x.detach().permute(0, 2, 3, 1).reshape(len(x), -1, size) for x in levels], 1).flatten(0, 1)
        for levels, size in zip(outputs, sizes, strict=True)
    ]
