"""Data: COCO-format sets, transforms, loading and COCO metrics, and an embedded generated set that needs no
download.

`generated` is not imported here, as it is also a program (`python -m mlc_ext.detectors.data.generated`).
"""

from .coco import CocoDetection
from .evaluation import CocoEvaluator, ProposalEvaluator
from .images import ImageDecodeError, decode_image
from .loader import AspectRatioBatchSampler, DataError, DetectionLoader, batch_images, build_loader, collate
from .paths import DatasetPaths, find_dataset
from .transforms import Compose, RandomHorizontalFlip, Resize, detection_transforms

__all__ = [
    "AspectRatioBatchSampler",
    "CocoDetection",
    "CocoEvaluator",
    "Compose",
    "DataError",
    "DatasetPaths",
    "DetectionLoader",
    "ImageDecodeError",
    "ProposalEvaluator",
    "RandomHorizontalFlip",
    "Resize",
    "batch_images",
    "build_loader",
    "collate",
    "decode_image",
    "detection_transforms",
    "find_dataset",
]
