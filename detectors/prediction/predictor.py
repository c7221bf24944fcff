"""A checkpoint's detector as a function of images."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import distributed
from ..config.settings import Config
from ..data.build import evaluation_transforms
from ..data.errors import ImageDecodeError
from ..data.transforms import Compose, Resize
from ..evaluation.measure import to_original
from ..models.dense_detector import DenseDetector
from ..runs.load import load_trained, trained_config, trained_detector
from .batches import Part, Read, detect_in_batches, in_windows, is_of_one_image, reason
from .exported import ExportedDetector, is_exported, open_exported
from .images import FRAME_IDS, image_ids, listed_images
from .pixels import KINDS, Source, read_pixels
from .result import Classes, Detections, FrameDetections, Results
from .video_reader import VideoReader, import_pyav

_LOG = logging.getLogger(__name__)

GPU_BATCH = 8
"""Images at a time on a GPU by default. On a CPU larger batches than one are not faster."""


class Predicted(NamedTuple):
    """An image that was predicted on."""

    image: Tensor
    """uint8 [3, H, W]."""
    result: Detections


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
            ValueError: a file that was named is not an image (ImageDecodeError), or is a video (:meth:`video`); an
                array, a tensor or an argument of another shape or range; a folder without images; an empty path.
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
            named = isinstance(entry, (str, os.PathLike))
            files = listed_images(entry, recursive, results.failed) if named else None
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
        if ids is None:
            ids = image_ids([Path(one) if isinstance(one, (str, os.PathLike)) else None for one in sources])
        return self._in_batches(self._read_all(sources, ids), threshold, self._batch_size(batch_size))

    def video(
        self, path: str | os.PathLike[str], threshold: float = 0.5, *, every: int = 1, batch_size: int | None = None
    ) -> Iterator[FrameDetections]:
        """Finds objects on the frames of a video, which are decoded as the iteration asks for them::

            for found in model.video("clip.mp4", threshold=0.3, every=5):
                print(found.frame, found.time, found.names)

        Args:
            path: the file. Reading it needs the extra ``video``.
            threshold, batch_size: as for :meth:`predict`.
            every: 1 takes every frame, 2 every second one, from the first.

        Yields:
            :class:`FrameDetections` of each frame, in order.

        Raises:
            FileNotFoundError: no such file. ImportError: PyAV is not installed. ValueError: an argument is not in
                range. ImageDecodeError (a ValueError), OSError: while iterating, where the file cannot be read; the
                frames before have been yielded.
        """
        path = Path(path)
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be in 0..1, got {threshold}")
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        if not path.exists():
            raise FileNotFoundError(f"no video {path}")
        import_pyav()
        return self._video(path, threshold, every, self._batch_size(batch_size))

    def _video(self, path: Path, threshold: float, every: int, batch_size: int) -> Iterator[FrameDetections]:
        try:
            with VideoReader(path) as reader:
                for outcome in self.frames(reader, threshold=threshold, every=every, batch_size=batch_size):
                    if isinstance(outcome, Exception):
                        raise outcome
                    yield outcome
        except (OSError, ImageDecodeError) as error:
            raise type(error)(f"{path}: {error}") from error

    def frames(
        self,
        reader: VideoReader,
        *,
        threshold: float,
        every: int = 1,
        batch_size: int | None = None,
        first_id: int = FRAME_IDS,
    ) -> Iterator[FrameDetections | Exception]:
        """:meth:`video` of an opened file, with errors yielded in place of frames that cannot be read, or do not fit
        in memory. The image id of frame 0 is ``first_id``; the others count on."""
        parts = self._read_frames(reader, every, first_id)
        for outcome in self._in_batches(parts, threshold, self._batch_size(batch_size)):
            yield outcome if isinstance(outcome, Exception) else outcome.result

    def _batch_size(self, given: int | None) -> int:
        if given is not None and given < 1:
            raise ValueError(f"batch_size must be at least 1, got {given}")
        return given or (1 if self.device.type == "cpu" else GPU_BATCH)

    def _read_all(self, sources: Sequence[Source], ids: Sequence[int]) -> Iterator[Part]:
        for number, (source, image_id) in enumerate(zip(sources, ids, strict=True)):
            try:
                image = read_pixels(source)
                make = functools.partial(Detections, source=source, image_id=image_id)
                yield Read(image, self.resize(image), make)
            except Exception as error:
                if is_of_one_image(error):
                    yield error
                elif isinstance(error, (TypeError, ValueError)) and len(sources) > 1:
                    raise type(error)(f"image {number}: {error}") from error
                else:
                    raise

    def _read_frames(self, reader: VideoReader, every: int, first_id: int) -> Iterator[Part]:
        make = functools.partial(FrameDetections, file=reader.path)
        try:
            for frame in reader.frames(every):
                if isinstance(frame, Exception):
                    yield frame
                    return
                number, time, image = frame
                about = {"image_id": first_id + number, "frame": number, "time": round(float(time), 6)}
                yield Read(image, self.resize(image), functools.partial(make, source=image, **about))
        except Exception as error:  # no memory for a frame
            if not is_of_one_image(error):
                raise
            yield error

    def resize(self, image: Tensor) -> Tensor:
        """An image, uint8 [3, H, W], in the size in which the network takes it."""
        return self._transforms(image, {"boxes": torch.zeros(0, 4), "area": torch.zeros(0)})[0]

    def _in_batches(self, parts: Iterable[Part], threshold: float, batch_size: int) -> Iterator[Predicted | Exception]:
        """The outcomes of the images, in their order."""
        for window in in_windows(parts, batch_size):
            resized = [part.resized for part in window if isinstance(part, Read)]
            found = iter(detect_in_batches(self.detect, resized, batch_size, self.model.size_divisor))
            for part in window:
                if isinstance(part, Exception):
                    yield part
                    continue
                one = next(found)
                yield one if isinstance(one, Exception) else Predicted(part.image, self._result(part, one, threshold))

    def _result(self, read: Read, detections: dict[str, Tensor], threshold: float) -> Detections:
        height, width = read.image.shape[1:]
        found = to_original(detections, (read.resized.shape[1], read.resized.shape[2]), (height, width))
        kept = found["scores"] > threshold
        found = {key: value[kept] for key, value in found.items()}
        return read.result(**found, image_size=(height, width), classes=self.classes)

    @torch.inference_mode()
    def detect(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """The network's detections on images that have been resized, uint8 [3, H_i, W_i], as one batch.

        Returns:
            `boxes` [n, 4] xyxy pixels, `labels` [n] and `scores` [n] of each image, on the device, best first.
        """
        return self.model.detect([image.to(self.device) for image in images])[0]
