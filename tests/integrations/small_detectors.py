"""Small torchvision detectors that train on a CPU in minutes, eight photographs for them, and their AP50."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

SHARED = Path(os.environ.get("MLC_SHARED_DIR", Path(__file__).resolve().parents[3] / "shared"))
NUM_CLASSES = 91
WIDTH = 64  # of the pyramid; torchvision's is 256
_SIZE = {"min_size": 96, "max_size": 128}


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(8, channels)


def _backbone(first: int, extra: nn.Module) -> BackboneWithFPN:
    resnet = ResNet(BasicBlock, [1, 1, 1, 1], norm_layer=_group_norm)  # half of a ResNet-18
    layers = {f"layer{i}": str(n) for n, i in enumerate(range(first, 5))}
    channels = [64 * 2 ** (i - 1) for i in range(first, 5)]
    return BackboneWithFPN(resnet, layers, channels, WIDTH, extra)


def fcos(**options) -> FCOS:
    return FCOS(_backbone(2, LastLevelP6P7(WIDTH, WIDTH)), NUM_CLASSES, **{**_SIZE, **options})


def retinanet(**options) -> RetinaNet:
    sizes = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512))
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)
    backbone = _backbone(2, LastLevelP6P7(WIDTH, WIDTH))
    return RetinaNet(backbone, NUM_CLASSES, anchor_generator=anchors, **{**_SIZE, **options})


def faster_rcnn(**options) -> FasterRCNN:
    pool = MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=7, sampling_ratio=2)
    anchors = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    head = nn.Sequential(nn.Flatten(), nn.Linear(WIDTH * 49, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
    return FasterRCNN(
        _backbone(1, LastLevelMaxPool()),
        rpn_anchor_generator=anchors,
        box_roi_pool=pool,
        box_head=head,
        box_predictor=torchvision.models.detection.faster_rcnn.FastRCNNPredictor(256, NUM_CLASSES),
        **{**_SIZE, "rpn_post_nms_top_n_train": 500, "rpn_post_nms_top_n_test": 300, **options},
    )


def photographs(count: int = 8) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """The first images of coco_small with at most 4 objects, none of them crowd or small, and their targets."""
    root = SHARED / "data" / "coco_small"
    content = json.loads((root / "annotations" / "instances_train.json").read_text())
    of_image: dict[int, list] = {}
    for annotation in content["annotations"]:
        of_image.setdefault(annotation["image_id"], []).append(annotation)
    images, targets = [], []
    for image in content["images"]:
        found = of_image.get(image["id"], [])
        smallest = min((min(a["bbox"][2:]) for a in found), default=0) / min(image["width"], image["height"])
        if len(images) == count or not 1 <= len(found) <= 4 or smallest < 0.15 or any(a["iscrowd"] for a in found):
            continue
        picture = Image.open(root / "train" / image["file_name"]).convert("RGB")
        images.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255)
        boxes = torch.tensor([a["bbox"] for a in found])
        boxes[:, 2:] += boxes[:, :2]
        targets.append({"boxes": boxes, "labels": torch.tensor([a["category_id"] for a in found])})
    return images, targets


def fit(model: nn.Module, images, targets, *, steps: int, on_epoch=None, epochs: float = 24.0) -> dict[str, float]:
    """Trains on one batch of all images; ``on_epoch(epoch)`` before every step -> the last losses."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        if on_epoch is not None:
            on_epoch(epochs * step / steps)
        losses = model(images, [dict(target) for target in targets])
        loss = sum(losses.values())
        assert loss.isfinite(), losses
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
    return {name: value.item() for name, value in losses.items()}


@torch.no_grad()
def detections(model: nn.Module, images) -> list[dict[str, torch.Tensor]]:
    model.eval()
    return model(images)


def ap50(results, targets) -> float:
    """COCO's AP at IoU 0.5, by pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations, found = [], []
    for image_id, (result, target) in enumerate(zip(results, targets, strict=True), start=1):
        for box, label in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True):
            size = [box[2] - box[0], box[3] - box[1]]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image_id, "category_id": label, "iscrowd": 0}
                | {"bbox": [*box[:2], *size], "area": size[0] * size[1]}
            )
        columns = (result[name].tolist() for name in ("boxes", "labels", "scores"))
        for box, label, score in zip(*columns, strict=True):
            bbox = [*box[:2], box[2] - box[0], box[3] - box[1]]
            found.append({"image_id": image_id, "category_id": label, "bbox": bbox, "score": score})
    if not found:
        return 0.0
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i + 1} for i in range(len(targets))],
        "annotations": annotations,
        "categories": [{"id": i} for i in sorted({a["category_id"] for a in annotations})],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[1])


DETECTORS = {"fcos": fcos, "retinanet": retinanet, "faster_rcnn": faster_rcnn}


def batch() -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Three images of noise, of different sizes, the second without a box."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, *size, generator=generator) for size in ((160, 200), (160, 160), (200, 160))]
    boxes = ([[10.0, 10, 70, 90], [30, 40, 120, 110], [90, 20, 190, 140]], [], [[5, 60, 80, 190], [20, 30, 150, 70.0]])
    labels = ([1, 90, 4], [], [4, 17])
    return images, [
        {"boxes": torch.tensor(b).reshape(-1, 4), "labels": torch.tensor(c, dtype=torch.int64)}
        for b, c in zip(boxes, labels, strict=True)
    ]


def losses_of(model: nn.Module, seed: int = 0, data=None) -> dict[str, torch.Tensor]:
    """Losses of a batch in training mode, with the samplers' random numbers fixed."""
    images, targets = data or batch()
    torch.manual_seed(seed)
    return model.train()(images, [dict(target) for target in targets])


def assert_same_detections(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> None:
    """The same detections; of equal scores either may be first."""
    torch.testing.assert_close(found["scores"], expected["scores"], rtol=1e-5, atol=1e-6)
    rows, expected_rows = (
        torch.cat([d["boxes"], d["labels"][:, None], d["scores"][:, None]], dim=1) for d in (found, expected)
    )
    distance = torch.cdist(rows, expected_rows, p=1)
    assert (distance.amin(1) < 1e-3).all() and (distance.amin(0) < 1e-3).all()
