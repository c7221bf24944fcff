"""What is read from a data set in another format, before it is written in COCO's."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ..images.decode import FORMATS
from ..images.files import IMAGE_SUFFIXES
from ..images.orientation import turned_size
from ..layouts import SPLITS

UNKNOWN = ""
"""The class and the split of boxes that have none; no class has this name."""


@dataclass
class SourceBox:
    """A box of a known class: x, y, width, height in pixels, as in COCO."""

    category: str
    xywh: tuple[float, float, float, float]


@dataclass
class SourceImage:
    """An image with its boxes."""

    path: Path
    name: str
    """Path in the split's image folder, with slashes."""
    width: int
    height: int
    boxes: list[SourceBox] = field(default_factory=list)


@dataclass
class Source:
    """A data set, and what was found and lost in reading it.

    Every box found is in an image's ``boxes`` or in ``lost``, every image file in a split or in ``problems``.
    """

    format: str
    categories: list[str]
    splits: dict[str, list[SourceImage]] = field(default_factory=dict)
    images_found: Counter[str] = field(default_factory=Counter)
    """Image files by split."""
    boxes_found: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Boxes by (split, class), each UNKNOWN if it has none."""
    lost: Counter[str] = field(default_factory=Counter)
    """Boxes that cannot be used, by reason."""
    problems: Counter[str] = field(default_factory=Counter)
    """Files that cannot be used, by reason."""
    notes: Counter[str] = field(default_factory=Counter)
    """What is used but unusual."""
    examples: dict[str, str] = field(default_factory=dict)
    """The first place of each reason."""
    convention: str = ""
    """How coordinates were read, where the format leaves it open."""

    def lose(self, reason: str, place: str, count: int = 1) -> None:
        """Counts boxes that cannot be used."""
        if count:
            self.lost[reason] += count
            self.examples.setdefault(reason, place)

    def problem(self, reason: str, place: str) -> None:
        """Counts a file that cannot be used."""
        self.problems[reason] += 1
        self.examples.setdefault(reason, place)

    def note(self, reason: str, place: str) -> None:
        self.notes[reason] += 1
        self.examples.setdefault(reason, place)


def split_of(name: str) -> str | None:
    """The split that a folder's or file's name gives; CVAT calls folders obj_train_data."""
    name = name.lower().removeprefix("obj_").removesuffix("_data")
    return next((split for split, names in SPLITS.items() if name in names), None)


def split_of_path(path: Path, root: Path) -> str | None:
    """The split that a folder of a file's path below ``root`` gives."""
    return next((split for part in path.relative_to(root).parts[:-1] if (split := split_of(part))), None)


def image_files(folder: Path) -> list[Path]:
    """The images in a folder and its subfolders, sorted, without hidden ones (macOS puts a ._a.jpg beside a.jpg)."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def image_size(path: Path, stated: tuple[int, int] | None = None) -> tuple[int, int]:
    """(width, height) of an image as it is loaded, by the rule of ``images/orientation.py``.

    Args:
        stated: (width, height) in the annotations, None without.

    Raises OSError if it is not an image.
    """
    try:
        with warnings.catch_warnings(), Image.open(path, formats=FORMATS) as image:
            warnings.simplefilter("ignore")
            height, width = turned_size(image, None if stated is None else stated[::-1])
            return width, height
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise OSError(f"{path.name} is not an image that can be read: {error}") from error


def unique_name(wanted: str, used: set[str]) -> str:
    """``wanted``, with a number if the name is used, in any case of letters; it is added to ``used``.

    Bytes that are not UTF-8 are replaced: a JSON cannot have them.
    """
    name = os.fsencode(wanted).decode("utf-8", "replace")
    path, number = Path(name), 2
    while name.lower() in used:
        name = path.with_name(f"{path.stem}_{number}{path.suffix}").as_posix()
        number += 1
    used.add(name.lower())
    return name


def common_folder(paths: Sequence[Path], root: Path) -> Path:
    """The deepest folder that has all files; ``root`` without files."""
    return Path(os.path.commonpath([path.parent for path in paths])) if paths else root
