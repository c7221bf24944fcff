"""A trained detector on images: draws what it finds, and writes it as JSON in COCO's results format.

    python detectors/predict.py runs/demo/checkpoint.pt photo.jpg holiday/ --out found

OUT gets a drawing of every image (found/photo.jpg.png, found/holiday/...) and predictions.json: COCO's result rows with
file names beside. An image id is the number that a file is called by, as COCO's are, where all files are called by
different ones; else images are numbered from 1. An image's EXIF rotation is applied, and boxes are in pixels of the
image so turned. Images that cannot be read are reported and left out. predictions.json is written in any case, after
Ctrl-C with the images so far.

Exit code: 0; 1 if some image could not be read or drawn; 2 if nothing could be done, or the disk of OUT is full; 130
after Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file: Python has put detectors/ itself on the path, not the folder above it
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import mlc_ext  # noqa: F401  (before other imports: it ends the process at Ctrl-C while they run)

import argparse
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from mlc_ext.detectors import distributed, interrupts
from mlc_ext.detectors.command_line import make_parser, print_error
from mlc_ext.detectors.config.settings import Config
from mlc_ext.detectors.data.build import evaluation_transforms
from mlc_ext.detectors.data.errors import ImageDecodeError
from mlc_ext.detectors.data.images.decode import decode_image, read_image
from mlc_ext.detectors.evaluation.measure import to_original
from mlc_ext.detectors.interrupts import interruptible
from mlc_ext.detectors.models.dense_detector import DenseDetector
from mlc_ext.detectors.runs.checkpoint import load_checkpoint
from mlc_ext.detectors.runs.files import check_writable, write_whole, writing
from mlc_ext.detectors.runs.load import trained_config, trained_detector
from mlc_ext.detectors.runs.log_file import show_warnings
from mlc_ext.detectors.visualization.drawing import draw_detections

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif"}
"""What counts as an image in a folder; a file that is named itself may be called anything."""

RESULTS = "predictions.json"

MAX_DRAWN = 100
"""Boxes drawn on an image, the best ones; the JSON holds all."""


class Predictor:
    """A checkpoint's detector with the preprocessing it is evaluated with.

    Attributes:
        names: class names by label; `names[l - 1]` is label l's.
        category_ids: COCO's ids of the classes, likewise.
    """

    def __init__(self, checkpoint: Path, device: str = "auto"):
        """Raises FileNotFoundError or ValueError for a checkpoint, or a device, that cannot be used."""
        state = load_checkpoint(checkpoint)
        self.config: Config = trained_config(state)
        self.device = distributed.pick_device(device)
        self.model: DenseDetector = trained_detector(checkpoint, state, self.config, self.device).eval()
        self.transforms = evaluation_transforms(self.config)
        numbers = list(range(1, state["num_classes"] + 1))
        self.names: list[str] = state.get("categories") or list(map(str, numbers))
        self.category_ids: list[int] = state.get("category_ids") or numbers  # not in checkpoints of version 0.1
        if self.model.class_agnostic:
            self.names, self.category_ids = ["object"], [1]

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        """uint8 [3, H, W] -> `boxes` [n, 4] xyxy pixels of this image, `labels` [n], `scores` [n], best first."""
        size = tuple(image.shape[-2:])
        empty = {"boxes": torch.zeros(0, 4), "area": torch.zeros(0)}
        resized, _ = self.transforms(image, empty)
        detections, _ = self.model.detect([resized.to(self.device)])
        return to_original(detections[0], tuple(resized.shape[-2:]), size)


def find_images(
    inputs: Sequence[Path], recursive: bool, out: Path, failed: dict[Path, str]
) -> Iterator[tuple[Path, Path]]:
    """(image file, where it goes below the output folder), each file once, folders in the order of names.

    Links are followed to files, not to folders. What lies in ``out`` of an earlier run is no input. A folder within a
    given one that cannot be listed goes to ``failed`` with the reason.

    Raises:
        FileNotFoundError: an input is not there, or neither a file nor a folder. ValueError: an input is ``out``.
    """
    seen: set[str] = set()
    taken: set[Path] = set()
    leave_out = os.path.realpath(out)
    for given in inputs:
        if os.path.isfile(given):  # unlike Path's, False for names of any length
            found = [(given, Path(given.name))]
        elif os.path.realpath(given) == leave_out and os.path.isdir(given):
            raise ValueError(f"{given} is the output folder too, whose files are no input: choose another --out")
        elif os.path.isdir(given):
            found = []
            for folder, folders, files in os.walk(given, onerror=lambda error: failed.update(_listing_failed(error))):
                here = Path(folder)
                folders[:] = sorted(f for f in folders if recursive and os.path.realpath(here / f) != leave_out)
                found += [
                    (here / name, Path(given.resolve().name) / here.relative_to(given) / name)
                    for name in sorted(files)
                    if Path(name).suffix.lower() in SUFFIXES
                ]
        else:
            raise FileNotFoundError(f"no image or folder {given}")
        for path, place in found:
            if (real := os.path.realpath(path)) in seen:
                continue
            seen.add(real)
            chosen, number = place, 1
            while chosen in taken:
                number += 1
                chosen = place.with_name(f"{place.stem}_{number}{place.suffix}")
            taken.add(chosen)
            yield path, chosen


def _listing_failed(error: OSError) -> dict[Path, str]:
    return {Path(os.fsdecode(error.filename)): f"cannot be listed: {error.strerror}"}


def image_ids(paths: Sequence[Path]) -> list[int]:
    """The numbers that the files are called by, if all are and differ; else 1, 2, ..."""
    stems = [path.stem for path in paths]
    if all(stem.isascii() and stem.isdigit() and len(stem) < 19 for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(paths) + 1))


def result_rows(detections: dict[str, Tensor], image_id: int, path: Path, predictor: Predictor) -> list[dict[str, Any]]:
    """Detections as rows of COCO's results format (boxes are x, y, width, height), with file and class names."""
    rows = []
    columns = (detections[key].tolist() for key in ("boxes", "labels", "scores"))
    for (x1, y1, x2, y2), label, score in zip(*columns, strict=True):
        rows.append(
            {
                "image_id": image_id,
                "file_name": str(path),
                "category_id": predictor.category_ids[label - 1],
                "category": predictor.names[label - 1],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
        )
    return rows


@dataclass
class Outcome:
    """What :func:`predict` did before it ended."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    """Of predictions.json."""
    done: int = 0
    """Images that were predicted on."""
    failed: dict[Path, str] = field(default_factory=dict)
    """Why an image could not be read, or its drawing not be written."""
    interrupted: bool = False


def predict(
    predictor: Predictor,
    images: Sequence[tuple[Path, Path]],
    out: Path,
    *,
    score_threshold: float,
    draw: bool = True,
    progress: bool = True,
) -> Outcome:
    """Predicts on every image, draws into ``out`` and writes ``out/predictions.json``, whatever ends it.

    An image that cannot be read, or does not fit in memory, fails alone. OSError: the disk of ``out`` is full.
    """
    outcome = Outcome()
    ids = image_ids([path for path, _ in images])
    names = None if predictor.model.class_agnostic else predictor.names
    bar = tqdm(images, unit="img", disable=not progress, dynamic_ncols=True)
    try:
        for (path, place), image_id in zip(bar, ids, strict=True):
            interrupts.check()
            try:
                if not path.is_file():  # a pipe would be waited for
                    raise OSError("not a regular file, or a link without an end")
                image = decode_image(read_image(path))
                found = predictor(image)
            except (OSError, ImageDecodeError, MemoryError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and "allocate" not in str(error):  # the allocator of CPU or GPU
                    raise
                outcome.failed[path] = str(error).partition("\n")[0] or "not enough memory"
                continue
            kept = found["scores"] > score_threshold
            found = {key: value[kept] for key, value in found.items()}
            outcome.rows += result_rows(found, image_id, path, predictor)
            outcome.done += 1
            if draw:
                target = out / place.with_name(_drawing_name(place.name))
                try:
                    with writing(target):
                        target.parent.mkdir(parents=True, exist_ok=True)
                        draw_detections(image, {key: value[:MAX_DRAWN] for key, value in found.items()}, names).save(
                            target
                        )
                except OSError as error:
                    if error.errno in _DISK:
                        raise
                    outcome.failed[path] = f"its drawing is not written: {error}"
    except KeyboardInterrupt:
        outcome.interrupted = True
    finally:
        with interrupts.deferred() as signals:
            write_whole(out / RESULTS, json.dumps(outcome.rows, indent=1) + "\n")
        outcome.interrupted |= bool(signals)
    return outcome


_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors that every later image would meet too."""


def _drawing_name(name: str) -> str:
    """The image's name with .png; a longer one than file systems have is cut and made distinct by a digest."""
    if len(os.fsencode(name)) + len(".png") <= 255:
        return f"{name}.png"
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
    return f"{os.fsencode(name)[:200].decode(errors='ignore')}~{digest}.png"


def parse(arguments: list[str] | None = None, prog: str = "predict.py") -> argparse.Namespace:
    parser = make_parser(prog, __doc__)
    parser.add_argument("checkpoint", type=Path, help="checkpoint.pt of a run")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE|FOLDER", help="what to predict on")
    parser.add_argument("--out", type=Path, default=Path("predictions"), metavar="DIR", help="default: predictions")
    parser.add_argument("--recursive", action="store_true", help="folders within folders too")
    parser.add_argument(
        "--score-threshold",
        type=float,
        metavar="S",
        help="keep what scores above; default: 0.3, of "
        "proposals 0.5; what the detector itself drops (below 0.05) does not come back",
    )
    parser.add_argument("--json", action="store_true", help="write predictions.json only, draw nothing")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 or auto (default)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(arguments)


@interruptible
def main(arguments: list[str] | None = None, prog: str = "predict.py") -> int:
    options = parse(arguments, prog)
    show_warnings()
    unlisted: dict[Path, str] = {}
    try:
        threshold = options.score_threshold
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"--score-threshold must be in 0..1, got {threshold}")
        images = list(find_images(options.images, options.recursive, options.out, unlisted))
        if not images:
            raise ValueError(f"no images in {', '.join(map(str, options.images))} (--recursive looks deeper)")
        check_writable(options.out / RESULTS)
        predictor = Predictor(options.checkpoint, options.device)
        if threshold is None:
            threshold = 0.5 if predictor.model.class_agnostic else 0.3
        outcome = predict(
            predictor,
            images,
            options.out,
            score_threshold=threshold,
            draw=not options.json,
            progress=not options.quiet,
        )
    except (ValueError, OSError, ImportError) as error:
        print_error(prog, error)
        return 2
    failed = unlisted | outcome.failed
    for path, why in failed.items():
        print_error(prog, f"{path}: {why}")
    if outcome.interrupted:
        print_error(prog, "interrupted")
    print(f"{options.out / RESULTS}: {len(outcome.rows)} boxes on {outcome.done} of {len(images)} images")
    return 130 if outcome.interrupted else 1 if failed else 0


if __name__ == "__main__":
    distributed.end_program(main())
