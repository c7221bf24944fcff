"""Reads a data set in Pascal VOC's format: an XML for each image, ``JPEGImages/`` and ``ImageSets/Main/``.

An XML's image is the one with the same path below the image folder, else the one with its file name.

VOC's own pixels are numbered from 1, and a box includes its last pixel. Most other tools write corners counted from 0.
If a coordinate below 1 is found anywhere in the data set, its corners count from 0, else from 1.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .formats import VOC, is_annotations, voc_folders
from .source import (
    UNKNOWN,
    Source,
    SourceBox,
    SourceImage,
    image_files,
    image_size,
    split_of,
    split_of_path,
    unique_name,
)

_MAX_BYTES = 2**24
_ENCODING = re.compile(rb"""\s*<\?xml[^>]*encoding=["']([\w.-]+)""")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class _Builder(ElementTree.TreeBuilder):
    """Refuses a document type: annotations have none, and entities may expand to gigabytes."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it has a document type")


@dataclass
class _Annotated:
    """An XML file as it was read."""

    path: Path
    file_name: str
    size: tuple[int, int] | None
    objects: list[tuple[str, tuple[float, ...] | None, bool]]
    """Class, corners (None: not four numbers), difficult."""


def read_voc(folder: Path, origin: int | None = None) -> Source:
    """The data set in ``folder``.

    Args:
        origin: 1 if corners count from 1 and include the last pixel, 0 if they count from 0; None: found as above.

    Raises:
        ValueError: no annotation can be read.
    """
    source = Source(VOC, [])
    places = {place: _read_all(place, source) for place in voc_folders(folder)}
    everything = [each for read in places.values() for each in read]
    if not everything:
        raise ValueError(f"{folder} has no XML file with annotations")
    source.categories = sorted({name for each in everything for name, _, _ in each.objects if name})
    if origin is None:
        corners = [box for each in everything for _, box, _ in each.objects if box is not None]
        origin = 0 if any(min(box[:2]) < 1 for box in corners) else 1
    source.convention = f"corners count from {origin}{', the last pixel is included' * origin} (--voc-origin)"
    used: dict[str, set[str]] = {}
    for place, read in places.items():
        root = place.parent if is_annotations(place) else place
        prefix = f"{root.name}/" if len(places) > 1 and split_of(root.name) is None else ""
        images, sets = _Images(place, root), _image_sets(root)
        keys = {each.path.relative_to(place).with_suffix("") for each in read}
        for each in read:
            file = images.of(each.path.relative_to(place).with_suffix(""), each.file_name)
            split = _split(each, file, place, folder, sets)
            if split is None:
                source.problem("XML files that no list of ImageSets/Main names", str(each.path))
                source.lose("boxes of XML files that no list names", str(each.path), len(each.objects))
                source.boxes_found.update((UNKNOWN, name or UNKNOWN) for name, _, _ in each.objects)
                continue
            name = "" if file is None else prefix + file.relative_to(images.folder).as_posix()
            _take(source, split, each, file, name, origin, used.setdefault(split, set()))
        for file in sorted(images.unused):
            source.images_found[split_of_path(file, folder) or "train"] += 1
            source.problem("images without an XML file", str(file))
        absent = sets.keys() - {key.as_posix() for key in keys} - {key.name for key in keys} - images.files.keys()
        for key in sorted(absent):
            source.problem("names of ImageSets/Main without an image and XML file", key)
    return source


class _Images:
    """The images of a folder of annotations: in JPEGImages or images beside it, else beside the XML files."""

    def __init__(self, place: Path, root: Path):
        inner = (root / name for name in ("JPEGImages", "images", "Images"))
        self.folder = next((path for path in inner if path.is_dir()), root) if is_annotations(place) else root
        files = [path for path in image_files(self.folder) if is_annotations(place) or path.parent == place]
        self.files: dict[str, Path | None] = {}
        """By path and by name, both with and without suffix; None if several files have the name."""
        for at in (2, 3, 0, 1):  # later keys replace earlier ones: paths take precedence over names
            for file in files:
                key = self._keys(file)[at]
                self.files[key] = None if at > 1 and self.files.get(key, file) != file else file
        self.unused = set(files)
        """The images that were not asked for."""

    def _keys(self, file: Path) -> tuple[str, str, str, str]:
        path = file.relative_to(self.folder)
        return path.as_posix(), path.with_suffix("").as_posix(), path.name, path.stem

    def of(self, path: Path, file_name: str) -> Path | None:
        """The image of an XML file.

        Args:
            path: of the XML file in its folder, without suffix.
            file_name: that it gives.
        """
        stated = PurePosixPath(file_name.replace("\\", "/"))
        beside = str(path.with_name(stated.name)) if stated.stem == path.name else ""
        for key in (beside, path.as_posix(), str(stated), path.name, stated.name):
            if (file := self.files.get(key)) is not None:
                self.unused.discard(file)
                return file
        return None


def _split(each: _Annotated, file: Path | None, place: Path, folder: Path, sets: dict[str, str]) -> str | None:
    """The split of an image: by the lists, else by the folders of both files. None: the lists leave it out.

    Some tools list the image's name with its suffix.
    """
    key = each.path.relative_to(place).with_suffix("")
    listed = [key.as_posix(), key.name, *([] if file is None else (f"{key.as_posix()}{file.suffix}", file.name))]
    if split := next((sets[name] for name in listed if name in sets), None):
        return split
    if "train" in sets.values():
        return None
    return split_of_path(each.path, folder) or (file and split_of_path(file, folder)) or "train"


def _read_all(place: Path, source: Source) -> list[_Annotated]:
    files = place.rglob("*.xml") if is_annotations(place) else place.glob("*.xml")
    read = (_read(path, source) for path in sorted(files) if not path.name.startswith("."))
    return [each for each in read if each is not None]


def _read(path: Path, source: Source) -> _Annotated | None:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it is larger than {_MAX_BYTES} bytes")
        root = _parse(path.read_bytes())
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        source.problem("XML files that cannot be read", f"{path}: {error}")
        return None
    if root.tag != "annotation":
        source.problem("XML files that are no annotation", str(path))
        return None
    objects = []
    for entry in root.findall("object"):
        difficult = (entry.findtext("difficult") or "").strip() == "1"
        objects.append(((entry.findtext("name") or "").strip(), _corners(entry), difficult))
    size = [_number(root.findtext(f"size/{side}")) for side in ("width", "height")]
    stated = (int(size[0]), int(size[1])) if size[0] and size[1] else None
    return _Annotated(path, (root.findtext("filename") or "").strip(), stated, objects)


def _parse(content: bytes) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(content, ElementTree.XMLParser(target=_Builder()))
    except ValueError:  # expat has no encodings of several bytes, such as GB2312
        if (stated := _ENCODING.match(content)) is None:
            raise
        text = content.decode(stated[1].decode())
        return ElementTree.fromstring(text, ElementTree.XMLParser(target=_Builder()))


def _corners(entry: ElementTree.Element) -> tuple[float, ...] | None:
    values = [_number(entry.findtext(f"bndbox/{name}")) for name in _CORNERS]
    return tuple(value for value in values if value is not None) if None not in values else None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _image_sets(root: Path) -> dict[str, str]:
    """{name: split} by ImageSets/Main/{train,val,test}.txt; names of trainval.txt alone are of train.

    A line is a name; CVAT puts a name with spaces into quotes.
    """
    found: dict[str, str] = {}
    files = sorted((root / "ImageSets" / "Main").glob("*.txt"), key=lambda file: file.stem == "trainval")
    for file in files:
        split = "train" if file.stem == "trainval" else split_of(file.stem)
        for line in [] if split is None else file.read_text("utf-8", "replace").splitlines():
            if name := line.strip().strip('"'):
                found.setdefault(name, split)
    return found


def _take(
    source: Source, split: str, each: _Annotated, file: Path | None, name: str, origin: int, used: set[str]
) -> None:
    source.boxes_found.update((split, label or UNKNOWN) for label, _, _ in each.objects)
    if file is None:
        source.problem("XML files without an image", f"{each.path}: {each.file_name}")
        source.lose("boxes of XML files without an image", str(each.path), len(each.objects))
        return
    source.images_found[split] += 1
    try:
        width, height = image_size(file, each.size)
    except OSError as error:
        source.problem("images that cannot be read", str(error))
        source.lose("boxes of images that cannot be read", str(file), len(each.objects))
        return
    if each.size is not None and each.size != (width, height):
        source.note("XML files with another size than their image", str(each.path))
    image = SourceImage(file, unique_name(name, used), width, height)
    source.splits.setdefault(split, []).append(image)
    for label, corners, difficult in each.objects:
        if not label:
            source.lose("boxes without a class", str(each.path))
        elif corners is None:
            source.lose("objects without four corners (bndbox)", str(each.path))
        else:
            x, y, right, bottom = corners[0] - origin, corners[1] - origin, corners[2], corners[3]
            if right <= x or bottom <= y:
                source.lose("boxes without area", f"{each.path}: {label} {corners}")
            elif x >= width or y >= height or right <= 0 or bottom <= 0:
                source.lose("boxes outside their image", f"{each.path}: {label} {corners}")
            else:
                if difficult:
                    source.note("difficult objects, used as any other", str(each.path))
                image.boxes.append(SourceBox(label, (x, y, right - x, bottom - y)))
