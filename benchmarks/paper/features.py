"""The second part on a fixed backbone: its maps of every training image and of its mirror image, computed once.

From the switch on the backbone is in evaluation mode and not trained; pyramid and head go on with the optimizer and the
rates of the first part. A step then costs a pyramid and a head. Evaluation runs the whole detector.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from mlc_ext.detectors.config.overrides import override
from mlc_ext.detectors.config.settings import Config
from mlc_ext.detectors.data.build import CACHE, build_datasets
from mlc_ext.detectors.data.coco.dataset import CocoDetection
from mlc_ext.detectors.data.transforms import RandomHorizontalFlip
from mlc_ext.detectors.engine.trainer import Trainer
from mlc_ext.detectors.models.batching import batch_images
from mlc_ext.detectors.models.dense_detector import DenseDetector
from mlc_ext.detectors.runs.load import load_for_evaluation

MAPS, INDEX = "features.f16", "features.pt"
_mirror = RandomHorizontalFlip(1.0)


class FeatureCache:
    """The maps in a memory-mapped file of half precision, 35 kB per image and orientation at 160 px (C3-C5 of
    efficientnet_lite0): what a step reads is in the system's file cache, which bounds the memory by itself.

    Entry 2 k is image k of the data set, 2 k + 1 its mirror image.
    """

    def __init__(self, folder: Path, strides: list[int], channels: list[int]) -> None:
        index = torch.load(folder / INDEX, weights_only=True)
        self.targets: list[dict[str, Any]] = index["targets"]
        self.sizes: list[tuple[int, int]] = index["sizes"]
        self._padded, self._offsets = index["padded"], index["offsets"]
        self._strides, self._channels = strides, channels
        self._values = np.memmap(folder / MAPS, dtype=np.float16, mode="r")

    def features(self, batch: Tensor) -> list[Tensor]:
        """The maps of a batch of :class:`CachedImages`' items, zeros where an image was padded to the batch's size."""
        height, width = batch.shape[-2:]
        entries = batch[:, 0, 0, 0].tolist()
        maps = []
        places = [self._offsets[entry] for entry in entries]
        for stride, channels in zip(self._strides, self._channels, strict=True):
            out = np.zeros((len(entries), height // stride, width // stride, channels), dtype=np.float32)
            for k, entry in enumerate(entries):
                h, w = (side // stride for side in self._padded[entry])
                end = places[k] + h * w * channels
                out[k, :h, :w] = self._values[places[k] : end].reshape(h, w, channels)
                places[k] = end
            maps.append(torch.from_numpy(out).permute(0, 3, 1, 2))  # channels last in memory
        return maps


class CachedImages(Dataset):
    """Instead of an image, a constant image of its size whose value is the index in the cache. The draw that decides
    whether it is mirrored is that of the data set's own flip."""

    def __init__(self, cache: FeatureCache, flip: float) -> None:
        self.cache, self.flip = cache, flip

    def __len__(self) -> int:
        return len(self.cache.sizes) // 2

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        entry = 2 * index + int(self.flip > 0 and bool(torch.rand(()) < self.flip))
        height, width = self.cache.sizes[entry]
        return torch.full((1, height, width), entry, dtype=torch.int32), dict(self.cache.targets[entry])


class CachedTrainer(Trainer):
    """A run whose training steps take the backbone's maps from a cache; see the module."""

    def __init__(self, config: Config, folder: Path) -> None:
        super().__init__(config, progress=False)
        backbone = self.model.backbone
        cache = FeatureCache(folder, backbone.strides, backbone.out_channels)
        _serve(backbone, cache)
        # the loader keeps its order, batches and seeds
        self.loader.loader.dataset.dataset = CachedImages(cache, config.data.flip)


def _serve(backbone: nn.Module, cache: FeatureCache) -> None:
    """In training the backbone's outputs come from the cache, and its parameters, without a gradient, stay."""
    forward, normalization = backbone.forward, backbone.normalization
    backbone.forward = lambda batch: cache.features(batch) if backbone.training else forward(batch)
    backbone.normalization = lambda image: image if backbone.training else normalization(image)


def ensure_cache(checkpoint: Path, config: Config, folder: Path) -> None:
    """Writes the maps of a first part's ``checkpoint`` unless they are there; several processes may call it at once."""
    folder.mkdir(parents=True, exist_ok=True)
    if config.data.workers or not isinstance(config.data.short_side, int):
        raise ValueError("--protocol cached needs data.workers=0 and one data.short_side")
    with _locked(folder):
        if not (folder / INDEX).exists():
            model = load_for_evaluation(checkpoint, device="cpu").model.eval()
            dataset, _ = build_datasets(override(override(config, "data.flip", 0.0), "data.cache", False), CACHE)
            _write(model, dataset, folder)


@torch.no_grad()
def _write(model: DenseDetector, dataset: CocoDetection, folder: Path) -> None:
    index: dict[str, list] = {"targets": [], "sizes": [], "padded": [], "offsets": []}
    offset = 0
    with open(folder / MAPS, "wb") as file:
        for k in range(len(dataset)):
            image, target = dataset[k]
            target.pop("skipped", None)
            pair = (image, target), _mirror(image, target)
            images = [model.backbone.normalization(one) for one, _ in pair]
            batch, _ = batch_images(images, model.size_divisor)
            maps = [level.permute(0, 2, 3, 1).half() for level in model.backbone(batch)]
            if not all(level.isfinite().all() for level in maps):
                raise ValueError(f"a feature of image {target['image_id']} does not fit half precision")
            for way, (one, its_target) in enumerate(pair):
                index["targets"].append(its_target)
                index["sizes"].append(tuple(one.shape[-2:]))
                index["padded"].append(tuple(batch.shape[-2:]))
                index["offsets"].append(offset)
                for level in maps:
                    file.write(level[way].contiguous().numpy().tobytes())
                    offset += level[way].numel()
    temporary = folder / f".{INDEX}.{os.getpid()}"
    torch.save(index, temporary)
    os.replace(temporary, folder / INDEX)  # the mark that all is there


def drop_cache(folder: Path) -> None:
    """Removes the maps; they are written again where they are needed again."""
    for name in (INDEX, MAPS):
        (folder / name).unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with open(folder / ".lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
