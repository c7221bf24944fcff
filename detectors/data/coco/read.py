"""Reads COCO detection JSON and selects the images that can be used."""

from __future__ import annotations

import difflib
import json
import posixpath
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..images.files import did_you_mean
from .categories import read_categories
from .file_names import inner_name, is_file_name, leads_out
from .values import as_id, as_side

_BLANK = b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n"  # byte order marks, UTF-16's other halves, white space

STORED = "images named by their path in Label Studio's storage"


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
