"""Reads a data set in Pascal VOC's format: an XML for each image, ``JPEGImages/`` and ``ImageSets/Main/``.

VOC's own pixels are numbered from 1, and a box includes its last pixel. Most other tools write corners counted from 0.
A coordinate below 1 anywhere in the data set shows that its corners count from 0.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from .formats import VOC, voc_folders
from .source import Source, SourceBox, SourceImage, image_files, image_size, split_of, unique_name

_MAX_BYTES = 2**24
_UNKNOWN = "?"
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
        origin: 1 if corners count from 1 and include the last pixel, 0 if they count from 0; None: as above.

    Raises:
        ValueError: no annotation can be read.
    """
    source = Source(VOC, [])
    places: dict[Path, tuple[str, list[_Annotated]]] = {}
    for place in voc_folders(folder):
        read = [each for path in sorted(place.rglob("*.xml")) if (each := _read(path, source)) is not None]
        places[place] = (split_of(place.name) or "train", read)
    everything = [each for _, read in places.values() for each in read]
    if not everything:
        raise ValueError(f"{folder} has no XML file with annotations")
    source.categories = sorted({name for each in everything for name, _, _ in each.objects if name})
    if origin is None:
        corners = [box for each in everything for _, box, _ in each.objects if box is not None]
        origin = 0 if any(min(box[:2]) < 1 for box in corners) else 1
    source.notes[f"corners count from {origin}" + (", the last pixel included" if origin else "")] = 1
    used: dict[str, set[str]] = {}
    for place, (own_split, read) in places.items():
        images = _images_of(place)
        by_stem = {file.stem: file for file in images}
        by_name = {file.name: file for file in images}
        root = place.parent if place.name == "Annotations" else place
        sets = _image_sets(root)
        prefix = f"{root.name}/" if len(places) > 1 and place.name == "Annotations" else ""
        taken: set[Path] = set()
        for each in read:
            stem = each.path.stem
            split = sets.get(stem, "train") if sets else own_split
            if sets and stem not in sets:
                source.note("images that no list of ImageSets/Main names, taken for training", str(each.path))
            file = by_stem.get(stem) or by_name.get(Path(each.file_name.replace("\\", "/")).name)
            if file is not None:
                taken.add(file)
            _take(source, split, each, file, prefix, origin, used.setdefault(split, set()))
        for file in images:
            if file not in taken:
                source.images_found[own_split] += 1
                source.problem("images without an XML file", str(file))
        for stem in sets.keys() - {each.path.stem for each in read} - by_stem.keys():
            source.problem("names of ImageSets/Main without an image and XML file", stem)
    return source


def _read(path: Path, source: Source) -> _Annotated | None:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it is larger than {_MAX_BYTES} bytes")
        root = ElementTree.fromstring(path.read_bytes(), ElementTree.XMLParser(target=_Builder()))
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


def _corners(entry: ElementTree.Element) -> tuple[float, ...] | None:
    values = [_number(entry.findtext(f"bndbox/{name}")) for name in _CORNERS]
    return tuple(value for value in values if value is not None) if None not in values else None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _images_of(place: Path) -> list[Path]:
    """The images of a folder of annotations: in JPEGImages or images beside it, else in the folder itself."""
    if place.name != "Annotations":
        return sorted(path for path in image_files(place) if path.parent == place)
    inner = (place.parent / name for name in ("JPEGImages", "images", "Images"))
    return image_files(next((path for path in inner if path.is_dir()), place.parent))


def _image_sets(root: Path) -> dict[str, str]:
    """{stem: split} by ImageSets/Main/{train,val,test}.txt; trainval.txt is used where train.txt is absent."""
    found: dict[str, str] = {}
    for name in ("train", "val", "test", "trainval"):
        file = root / "ImageSets" / "Main" / f"{name}.txt"
        if file.is_file():
            for line in file.read_text("utf-8", "replace").splitlines():
                if line.strip():
                    found.setdefault(line.split()[0], "train" if name == "trainval" else name)
    return found


def _take(
    source: Source, split: str, each: _Annotated, file: Path | None, prefix: str, origin: int, used: set[str]
) -> None:
    for name, _, _ in each.objects:
        source.boxes_found[split, name or _UNKNOWN] += 1
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
    image = SourceImage(file, unique_name(prefix + file.name, used), width, height)
    source.splits.setdefault(split, []).append(image)
    for name, corners, difficult in each.objects:
        if not name:
            source.lose("boxes without a class", str(each.path))
        elif corners is None:
            source.lose("objects without four corners (bndbox)", str(each.path))
        else:
            x, y, right, bottom = corners[0] - origin, corners[1] - origin, corners[2], corners[3]
            if right <= x or bottom <= y:
                source.lose("boxes without area", f"{each.path}: {name} {corners}")
            elif x >= width or y >= height or right <= 0 or bottom <= 0:
                source.lose("boxes outside their image", f"{each.path}: {name} {corners}")
            else:
                if difficult:
                    source.note("difficult objects, used as any other", str(each.path))
                image.boxes.append(SourceBox(name, (x, y, right - x, bottom - y)))
