"""A checkpoint's detector as a function of images."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import distributed
from ..config.settings import Config
from ..data.build import evaluation_transforms
from ..data.transforms import Compose, Resize
from ..evaluation.measure import to_original
from ..models.dense_detector import DenseDetector
from ..runs.load import load_trained, trained_config, trained_detector
from .batches import detect_in_batches, is_of_one_image, reason
from .exported import ExportedDetector, is_exported, open_exported
from .images import find_images, image_ids, is_one_file
from .pixels import KINDS, Source, read_pixels
from .result import Classes, Detections, Results

_LOG = logging.getLogger(__name__)

GPU_BATCH = 8
"""Images at a time on a GPU by default. On a CPU larger batches than one are not faster."""

_WINDOW = 4
"""Batches that are read before the images are grouped by size."""
_WINDOW_BYTES = 2**28
"""Fewer are read if their pixels take more memory."""


class Predicted(NamedTuple):
    """An image that was predicted on."""

    image: Tensor
    """uint8 [3, H, W]."""
    result: Detections


class _Read(NamedTuple):
    """An image that was read."""

    source: Source
    image_id: int
    image: Tensor
    resized: Tensor
    """As the detector takes it."""


class Predictor:
    """A trained detector, with the preprocessing it is evaluated with: see :func:`mlc_ext.detectors.load`.

    Attributes:
        model: the network, in evaluation mode, or an exported one.
        classes: names and category ids of its classes.
        config: the configuration of its training; None of an exported file.
        device: where it runs.
    """

    def __init__(self, checkpoint: str | os.PathLike[str], device: str = "auto"):
        self.config: Config | None = None
        self.model: DenseDetector | ExportedDetector
        if is_exported(checkpoint):
            self.model = open_exported(Path(checkpoint), device)
            about, self.device = self.model.metadata, torch.device("cpu")
            self.classes = Classes(about.classes, about.category_ids, about.class_agnostic)
            self._transforms = Compose([Resize(**about.preprocessing)])
            return
        path, state = load_trained(Path(checkpoint))
        self.config = trained_config(state)
        self.device = distributed.pick_device(device)
        self.model = trained_detector(path, state, self.config, self.device).eval()
        numbers = list(range(1, state["num_classes"] + 1))
        names = state.get("categories") or list(map(str, numbers))
        self.classes = Classes(names, state.get("category_ids") or numbers)  # a checkpoint may be without either
        if self.model.class_agnostic:
            self.classes = Classes(["object"], [1], agnostic=True)
        self._transforms = evaluation_transforms(self.config)

    @overload  # Detections for a file, Results for a folder; first, as a str is a sequence of str too
    def predict(
        self,
        source: str | os.PathLike[str],
        threshold: float = ...,
        batch_size: int | None = ...,
        *,
        recursive: bool = ...,
    ) -> Any: ...
    @overload
    def predict(
        self, source: Image.Image | np.ndarray | Tensor, threshold: float = ..., batch_size: int | None = ...
    ) -> Detections: ...
    @overload
    def predict(
        self, source: Sequence[Source], threshold: float = ..., batch_size: int | None = ..., *, recursive: bool = ...
    ) -> Results: ...
    def predict(
        self,
        source: Source | Sequence[Source],
        threshold: float = 0.5,
        batch_size: int | None = None,
        *,
        recursive: bool = False,
    ) -> Detections | Results:
        """Finds objects on one image or on several.

        Args:
            source: an image, or a list of images. An image is the path of a file, a PIL image, an array [H, W, 3] or a
                tensor [3, H, W]; arrays and tensors are RGB (OpenCV's are BGR), uint8 or floats in 0..1. The path of a
                folder, or a pattern such as ``"photos/**/*.jpg"``, stands for the images in it.
            threshold: objects with a higher score are returned. The detector itself drops those whose class score is
                not above 0.05 (RPN drops none).
            batch_size: images at a time; None is 8 on a GPU and 1 on a CPU. Images are batched with those of the same
                padded size, so the results do not depend on it, except for rounding.
            recursive: whether folders within a folder are searched too.

        Returns:
            :class:`Detections` for one image. :class:`Results`, a list of them in the order of the images, for a list,
            a folder or a pattern.

        Raises:
            FileNotFoundError: no file or folder has that path, or no image matches the pattern.
            OSError: a file that was named cannot be read. Files of a folder or pattern that cannot be read or decoded
                are left out, logged as a warning, and listed in ``Results.failed``.
            ValueError: a file that was named is not an image (ImageDecodeError); an array, a tensor or an argument of
                another shape or range; a folder without images; an empty path.
            TypeError: an image of another type.
        """
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be in 0..1, got {threshold}")
        if not isinstance(source, (list, tuple, *KINDS)):
            expected = "a path, a PIL image, an array or a tensor, or a list of these"
            raise TypeError(f"an image must be {expected}, got {type(source).__name__}")
        several = isinstance(source, (list, tuple))
        entries: Sequence[Any] = source if isinstance(source, (list, tuple)) else [source]
        results = Results()
        sources: list[Source] = []
        listed: list[Path | None] = []  # None if it was named by the caller
        for entry in entries:
            files = self._files(entry, recursive, results.failed)
            sources += [entry] if files is None else files
            listed += [None] if files is None else files
            several |= files is not None
        outcomes = self.stream(sources, threshold=threshold, batch_size=batch_size)
        for outcome, one, file in zip(outcomes, sources, listed, strict=True):
            if isinstance(outcome, Predicted):
                results.append(outcome.result)
            elif file is None:
                shown = one if isinstance(one, (str, os.PathLike)) else "an image"
                raise type(outcome)(f"{shown}: {outcome}") from outcome
            else:
                results.failed[file] = reason(outcome)
        if results.failed:
            path, why = next(iter(results.failed.items()))
            _LOG.warning("%d images or folders cannot be read and are left out: %s: %s", len(results.failed), path, why)
        return results if several else results[0]

    @staticmethod
    def _files(entry: Source, recursive: bool, failed: dict[Path, str]) -> list[Path] | None:
        """The images of a folder or pattern; None for an image."""
        if not isinstance(entry, (str, os.PathLike)) or is_one_file(entry):
            return None
        if not os.fspath(entry):  # Path("") would be the current folder
            raise ValueError("the path of an image must not be empty")
        found = [path for path, _ in find_images([Path(entry)], recursive, None, failed)]
        if not found:
            raise ValueError(f"no images in {entry}" + ("" if recursive else " (recursive=True looks deeper)"))
        return found

    def stream(
        self,
        sources: Sequence[Source],
        *,
        threshold: float,
        batch_size: int | None = None,
        ids: Sequence[int] | None = None,
    ) -> Iterator[Predicted | Exception]:
        """:meth:`predict` on images that are files or given themselves, one after the other: for more results and
        images than fit in memory.

        An image that cannot be read, or does not fit in memory, fails alone: its error is yielded in its place.

        Args:
            sources, threshold, batch_size: as for :meth:`predict`.
            ids: ``Detections.image_id`` of each.

        Yields:
            :class:`Predicted`, or the error, for each image in order.
        """
        size = (1 if self.device.type == "cpu" else GPU_BATCH) if batch_size is None else batch_size
        if size < 1:
            raise ValueError(f"batch_size must be at least 1, got {size}")
        if ids is None:
            ids = image_ids([Path(one) if isinstance(one, (str, os.PathLike)) else None for one in sources])
        most = 1 if size == 1 else _WINDOW * size
        window: list[_Read | Exception] = []
        for number, (source, image_id) in enumerate(zip(sources, ids, strict=True)):
            try:
                window.append(self._read(source, image_id))
            except (TypeError, ValueError) as error:
                if len(sources) == 1:
                    raise
                raise type(error)(f"image {number}: {error}") from error
            held = sum(part.image.nbytes for part in window if isinstance(part, _Read))
            if len(window) == most or held > _WINDOW_BYTES:
                yield from self._predicted(window, threshold, size)
                window = []
        yield from self._predicted(window, threshold, size)

    def _read(self, source: Source, image_id: int) -> _Read | Exception:
        try:
            image = read_pixels(source)
            return _Read(source, image_id, image, self.resize(image))
        except Exception as error:
            if not is_of_one_image(error):
                raise
            return error

    def resize(self, image: Tensor) -> Tensor:
        """An image, uint8 [3, H, W], in the size in which the network takes it."""
        return self._transforms(image, {"boxes": torch.zeros(0, 4), "area": torch.zeros(0)})[0]

    def _predicted(
        self, window: list[_Read | Exception], threshold: float, batch_size: int
    ) -> Iterator[Predicted | Exception]:
        """The outcomes of a window, in its order."""
        resized = [part.resized for part in window if isinstance(part, _Read)]
        found = iter(detect_in_batches(self.detect, resized, batch_size, self.model.size_divisor))
        for part in window:
            if isinstance(part, Exception):
                yield part
                continue
            one = next(found)
            yield one if isinstance(one, Exception) else Predicted(part.image, self._result(part, one, threshold))

    def _result(self, read: _Read, detections: dict[str, Tensor], threshold: float) -> Detections:
        height, width = read.image.shape[1:]
        found = to_original(detections, (read.resized.shape[1], read.resized.shape[2]), (height, width))
        kept = found["scores"] > threshold
        return Detections(
            **{key: value[kept] for key, value in found.items()},
            image_size=(height, width),
            classes=self.classes,
            source=read.source,
            image_id=read.image_id,
        )

    @torch.inference_mode()
    def detect(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """The network's detections on images that have been resized, uint8 [3, H_i, W_i], as one batch.

        Returns:
            `boxes` [n, 4] xyxy pixels, `labels` [n] and `scores` [n] of each image, on the device, best first.
        """
        return self.model.detect([image.to(self.device) for image in images])[0]
