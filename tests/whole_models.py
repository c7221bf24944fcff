"""Every detector on the least backbone there is, with images and objects to train it on."""

import torch
from torch import nn

from mlc_ext import MLCConfig
from mlc_ext.detectors.models.backbones.base import IMAGENET_RGB
from mlc_ext.detectors.models.fcos import FCOS
from mlc_ext.detectors.models.retinanet import RetinaNet
from mlc_ext.detectors.models.rpn import RPN

DETECTORS = ("fcos", "fcos-", "retinanet", "rpn")


class Pooling(nn.Module):
    """The least a backbone can be, and one that mirrors: the image averaged over the cells of each stride."""

    normalization = IMAGENET_RGB

    def __init__(self, strides):
        super().__init__()
        self.strides, self.out_channels = list(strides), [3] * len(strides)

    def forward(self, images):
        return [nn.functional.avg_pool2d(images, stride) for stride in self.strides]


def build(detector, num_classes=3, *, mlc=None, seed=0, **options):
    torch.manual_seed(seed)
    mlc = mlc or MLCConfig.paper(detector, start_epoch=0)
    settings = {"mlc": mlc, "fpn_channels": 64, **options}  # groups of two: P7 may have one cell
    if detector == "rpn":
        return RPN(backbone=Pooling((4, 8, 16, 32)), **settings)
    kind = RetinaNet if detector == "retinanet" else FCOS
    if kind is FCOS:
        settings["centerness"] = detector == "fcos"
    return kind(num_classes, backbone=Pooling((8, 16, 32)), num_convs=1, **settings)


def target(boxes, labels=None, crowd=None):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.ones(len(boxes), dtype=torch.int64) if labels is None else torch.tensor(labels)
    return {"boxes": boxes, "labels": labels} | ({} if crowd is None else {"iscrowd": torch.tensor(crowd)})


NOTHING = target([])
BATCHES = [
    [target([(4, 4, 60, 50), (30, 20, 90, 60)], [1, 3]), target([(8, 8, 40, 90)], [2])],
    [NOTHING, target([(8, 8, 40, 90), (0, 0, 64, 96)], [2, 1], crowd=[False, True])],
    [NOTHING, NOTHING],
    [target([(10, 10, 11, 11)]), target([(0, 0, 60, 90)], crowd=[True])],
]
IMAGES = [torch.rand(3, h, w, generator=torch.Generator().manual_seed(h)) for h, w in ((64, 96), (96, 64))]
