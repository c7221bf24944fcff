"""Reads COCO detection JSON and selects the images and annotations that can be used."""

from __future__ import annotations

import difflib
import json
import posixpath
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..images.files import did_you_mean
from .categories import read_categories
from .file_names import inner_name, is_file_name, leads_out
from .values import as_flag, as_id, as_numbers, as_side

_BLANK = b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n"  # byte order marks, UTF-16's other halves, white space

UNKNOWN_IMAGE = "annotations of unknown images"
UNKNOWN_CATEGORY = "annotations of unknown categories"
MALFORMED_FLAG = "annotations with a malformed iscrowd"
MALFORMED_BOX, NO_AREA, OUTSIDE = "malformed boxes", "boxes without area", "boxes outside the image"
CLIPPED = "boxes clipped to the image"
STORED = "images named by their path in Label Studio's storage"
FIELDS = {
    UNKNOWN_IMAGE: "image_id", UNKNOWN_CATEGORY: "category_id", MALFORMED_FLAG: "iscrowd",
    MALFORMED_BOX: "bbox", NO_AREA: "bbox", OUTSIDE: "bbox",
}  # fmt: skip
"""The faulty field, by the reason to drop an annotation."""
LOST_WITH_IMAGE = ("annotations of missing images", "annotations of broken images")


@dataclass
class CocoContent:
    """A COCO detection JSON: checked images and categories, unchecked annotations."""

    images: dict[int, dict[str, Any]]
    """By id, in the order of ids: ``file_name``, ``height``, ``width``."""
    annotations: list[Any]
    categories: dict[int, str]
    """Names by id, in the order of ids."""
    known_images: set[int]
    """Every image id in the file, including those of unusable entries."""
    same_image: dict[int, int] = field(default_factory=dict)
    """{id: the id under which the same file was listed before}."""
    problems: list[str] = field(default_factory=list)
    """The faults of the image entries that were left out, each in a line."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Counts of entries left out, by reason."""
    noted: Counter[str] = field(default_factory=Counter)
    """Counts of unusual entries that are used."""

    def choose(self, names: Sequence[str], source: Path) -> None:
        """Keeps only the named categories and their annotations.

        ValueError, naming the file ``source``, if it does not have one of them.
        """
        there = set(self.categories.values())
        for name in names:
            if name not in there:
                near = difflib.get_close_matches(name, there, n=1)
                raise ValueError(f"{source}: no category {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        if not names:
            raise ValueError(f"{source}: no category is chosen")
        others = {key for key, name in self.categories.items() if name not in set(names)}
        self.categories = {key: name for key, name in self.categories.items() if key not in others}
        self.annotations = [entry for entry in self.annotations if not _has(entry, "category_id", others)]

    def keep_images(self, chosen: Container[str], name: str) -> None:
        """Keeps only the images of these file names and their annotations; annotations of unknown images stay.

        ValueError, naming the data set ``name``, if no image is left.
        """
        others = {key for key, entry in self.images.items() if entry["file_name"] not in chosen}
        self.images = {key: entry for key, entry in self.images.items() if key not in others}
        if not self.images:
            raise ValueError(f"{name}: none of its {len(others)} images is in this part")
        others |= {key for key, same in self.same_image.items() if same in others}
        self.annotations = [entry for entry in self.annotations if not _has(entry, "image_id", others)]


def _has(annotation: Any, field: str, ids: set[int]) -> bool:
    return isinstance(annotation, dict) and as_id(annotation.get(field)) in ids


def read_coco(path: Path) -> CocoContent:
    """Reads and checks a COCO detection JSON.

    An image entry that cannot be used (a field is missing or wrong, or another image has its id) is left out and
    reported in `problems`. Duplicates of images, annotations and categories are read once. One file listed under
    several ids, as some exporters do for several boxes, is one image with all of their boxes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no COCO detection data (names what is missing), no usable image, a category that cannot be used, or
            a file name that leads out of the image folder: such a file is hostile as a whole. Label Studio's paths of
            its own storage are names in the image folder.
    """
    content = _load(path)
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(content.get(key), list)]
    if missing:
        raise ValueError(f"{path} is not COCO detection data: no list {', '.join(missing)}")
    for key in ("images", "categories"):
        if not content[key]:
            raise ValueError(f"{path}: {key} is empty")
    result = CocoContent({}, [], {}, set())
    result.categories = read_categories(content["categories"], path, result.noted)
    _take_images(result, content["images"], path)
    if not result.images:
        raise ValueError(f"{path}: no image can be used: {result.problems[0]}")
    result.annotations = list(_without_repetitions(result, content["annotations"]))
    return result


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no annotation file {path}{did_you_mean(path)}")
    with open(path, "rb") as file:  # the first bytes identify most wrong files, also large ones
        head = file.read(64)
        begin = head.lstrip(_BLANK)[:16]
        if begin.startswith(b"["):
            raise ValueError(f"{path} is not COCO detection data: a list, not an object (a file of results?)")
        if not head or (begin and not begin.startswith(b"{")):
            raise ValueError(f"{path} is not JSON: " + (f"begins with {begin!r}" if head else "an empty file"))
        try:
            content = json.loads(head + file.read())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not COCO detection data: a {type(content).__name__}, not an object")
    return content


def _take_images(result: CocoContent, entries: list[Any], path: Path) -> None:
    """Fills `images`, `known_images` and `same_image`."""
    found: dict[int, dict[str, Any]] = {}
    ambiguous: set[int] = set()
    for k, entry in enumerate(entries):
        key = as_id(entry.get("id")) if isinstance(entry, dict) else None
        if key is not None:
            result.known_images.add(key)
        image = _image(entry, k, path, result.noted)
        if isinstance(image, str):
            result.problems.append(image)
            result.dropped["malformed images"] += 1
            continue
        if key not in found:
            found[key] = image
        elif found[key] == image:
            result.dropped["repeated images"] += 1
        else:
            ambiguous.add(key)
    for key in sorted(ambiguous):  # its boxes cannot be assigned to one of the images
        del found[key]
        result.problems.append(f"images has id {key} more than once, for different images")
        result.dropped["images that share an id"] += 1
    first: dict[tuple[str, int, int], int] = {}
    for key in sorted(found):
        image = found[key]
        name = posixpath.normpath(image["file_name"])
        original = first.setdefault((name, image["height"], image["width"]), key)
        if original == key:
            result.images[key] = image
        else:
            result.same_image[key] = original
            result.noted["images listed again under another id, taken as one"] += 1


def _image(entry: Any, k: int, path: Path, noted: Counter[str]) -> dict[str, Any] | str:
    """The used fields of an image's entry, or its fault."""
    fields = ("id", "file_name", "width", "height")
    absent = [name for name in fields if name not in entry] if isinstance(entry, dict) else fields
    if absent:
        return f"images[{k}] has no {', '.join(absent)}"
    if as_id(entry["id"]) is None:
        return f"images[{k}] has id {entry['id']!r}, which is not an integer"
    name = entry["file_name"]
    if not is_file_name(name):
        return f"images[{k}]: {name!r} is not a file name"
    if leads_out(name):
        name = inner_name(name, path)
        noted[STORED] += 1
    sides = [as_side(entry[side]) for side in ("height", "width")]
    if None in sides:
        return f"images[{k}] has size {entry['width']!r} x {entry['height']!r}"
    return {"file_name": name, "height": sides[0], "width": sides[1]}


def _without_repetitions(result: CocoContent, annotations: list[Any]) -> Iterable[Any]:
    """The annotations without exact duplicates. Different annotations with the same id are kept: ids are not used."""
    seen: dict[int, Any] = {}
    for annotation in annotations:
        key = as_id(annotation.get("id")) if isinstance(annotation, dict) else None
        if key is not None:
            if key in seen and seen[key] == annotation:
                result.dropped["repeated annotations"] += 1
                continue
            if key in seen:
                result.noted["annotations with the id of another"] += 1
            seen.setdefault(key, annotation)
        yield annotation


@dataclass
class Row:
    """An annotation as it is used."""

    image_id: int
    label: int
    box: np.ndarray  # xyxy, clipped
    file_box: Sequence[float]  # xywh, as in the file
    area: float
    iscrowd: bool


def usable_rows(
    content: CocoContent, images: dict[int, dict[str, Any]], labels: Mapping[int, int], examples: dict[str, str]
) -> list[Row]:
    """The annotations of these images and {category: label} that can be used. The others are counted in the content's
    ``dropped``, the first of each reason is described in ``examples``."""
    rows = []
    for k, annotation in enumerate(content.annotations):
        row = parse_row(annotation, images, content, labels)
        if not isinstance(row, str):
            rows.append(row)
            continue
        content.dropped[row] += 1
        if row in FIELDS and row not in examples:
            examples[row] = f"annotations[{k}] has {FIELDS[row]} {annotation.get(FIELDS[row])!r:.60}"
    if not content.annotations:
        content.noted["file without annotations"] = 1
    return rows


def parse_row(
    annotation: Any,
    images: dict[int, dict[str, Any]],
    content: CocoContent,
    labels: Mapping[int, int],
) -> Row | str:
    """The usable form of an annotation of these images and {category: label}, or the reason to drop it. Unusual but
    used annotations are counted in the content's ``noted``."""
    if not isinstance(annotation, Mapping):
        return "malformed annotations"
    image_id, category = as_id(annotation.get("image_id")), as_id(annotation.get("category_id"))
    if image_id not in content.known_images:
        return UNKNOWN_IMAGE
    image_id = content.same_image.get(image_id, image_id)
    if image_id not in images:
        return LOST_WITH_IMAGE[0]
    if category not in labels:
        return UNKNOWN_CATEGORY
    crowd = as_flag(annotation.get("iscrowd"))
    if crowd is None:
        return MALFORMED_FLAG
    box = as_numbers(annotation.get("bbox"), 4)
    if box is None:
        return MALFORMED_BOX
    x, y, w, h = box
    if w <= 0 or h <= 0:
        return NO_AREA
    width, height = images[image_id]["width"], images[image_id]["height"]
    corners = np.clip([x, y, x + w, y + h], 0, [width, height, width, height])
    clipped = corners.astype(np.float32)
    # judged in float32, the precision that training sees
    if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
        return OUTSIDE
    if max(map(abs, box)) >= 2**31:  # its area, which COCO evaluates, may be infinite
        return MALFORMED_BOX
    if not np.array_equal(corners, [x, y, x + w, y + h]):
        content.noted[CLIPPED] += 1
    area = as_numbers([annotation.get("area")], 1)
    size = float((clipped[2] - clipped[0]) * (clipped[3] - clipped[1]))
    return Row(
        image_id,
        labels[category],
        clipped,
        box,
        area[0] if area is not None and 0 < area[0] < 2**62 else size,
        crowd,
    )
