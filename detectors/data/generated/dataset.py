"""The embedded data set: seeded scenes in COCO's format, so that training and its tests need no download.

`python -m mlc_ext.detectors.data.generated OUT` writes `annotations/instances_{train,val}.json` and the PNG images in
`train/` and `val/`. `scenes` describes the scenes and their purpose.

Every image is drawn from a generator of its own, seeded by (seed, split, index): an image does not depend on
how many others there are. The JSON holds no dates or paths, so equal parameters give equal bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from .animals import MAX_CLASSES, class_badge
from .scenes import Scene, draw_scene

GENERATOR_VERSION = 2  # raise it whenever a pixel or a box of any scene changes
MARKER = "generated.json"
_NAME = "mlc generated animals"
_SPLITS = ("train", "val")
_FIRST_IMAGE_ID = {"train": 1, "val": 1_000_001}
_MAX_OBJECTS = 100  # room for annotation ids per image; a scene holds far fewer


def category_id(class_index: int) -> int:
    """COCO category id of a class (1, 3, 5, ...): with holes, as in COCO, so that a mixed-up id cannot go
    unseen."""
    return 2 * class_index + 1


def scene(split: str, index: int, *, image_size: int = 160, num_classes: int = 3, seed: int = 0) -> Scene:
    """Draws scene `index` of `split` ("train" or "val"); the same arguments always give the same scene."""
    rng = np.random.default_rng([seed, _SPLITS.index(split), index])
    return draw_scene(rng, image_size, num_classes)


def generate(
    root: str | os.PathLike,
    *,
    num_train: int = 800,
    num_val: int = 200,
    image_size: int = 160,
    num_classes: int = 3,
    seed: int = 0,
) -> Path:
    """Writes the data set to `root` unless it is there already, and returns `root`.

    A marker file holds the exact parameters and the generator's version; a set that differs in any is made
    anew. The set is built beside `root` and moved there in one step, so a reader never meets half a set, and
    several processes may call this at once. Image side `image_size` in pixels, >= 48.

    Raises:
        ValueError: a parameter out of range.
        FileExistsError: `root` exists and is neither empty nor a set that this function wrote.
    """
    parameters = {
        "num_train": num_train,
        "num_val": num_val,
        "image_size": image_size,
        "num_classes": num_classes,
        "seed": seed,
    }
    _check(parameters)
    marker = {"generator": _NAME, "version": GENERATOR_VERSION, **parameters}
    given, root = Path(root), Path(root).resolve()
    if _is_current(root, marker):
        return given
    root.parent.mkdir(parents=True, exist_ok=True)
    workspace = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        fresh = workspace / "new"
        (fresh / "annotations").mkdir(parents=True)
        for split, count in (("train", num_train), ("val", num_val)):
            _write_split(fresh, split, count, image_size, num_classes, seed)
        _write_json(fresh / MARKER, marker)
        with _locked(root.parent):
            if not _is_current(root, marker):  # another process may have been faster
                if root.exists():
                    os.rename(root, workspace / "old")
                os.rename(fresh, root)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
    return given


def _check(parameters: dict[str, int]) -> None:
    lowest = {"num_train": 1, "num_val": 1, "image_size": 48, "num_classes": 1, "seed": 0}
    highest = {
        "num_train": 1_000_000,
        "num_val": 1_000_000,
        "image_size": 4096,
        "num_classes": MAX_CLASSES,
        "seed": 2**63,
    }
    for name, value in parameters.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{name} must be an int, got {value!r}")
        if not lowest[name] <= value <= highest[name]:
            raise ValueError(f"{name} must be in {lowest[name]}..{highest[name]}, got {value}")


def _is_current(root: Path, marker: dict[str, int | str]) -> bool:
    """Whether `root` holds the set that `marker` describes; refuses a folder (or file) of somebody else's."""
    try:
        found = json.loads((root / MARKER).read_text())
    except (OSError, ValueError):
        found = None
    if isinstance(found, dict) and found.get("generator") == _NAME:
        return found == marker
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise FileExistsError(f"{root} exists and is not a generated data set (no valid {MARKER}): left alone")
    return False


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds an advisory lock on `folder` itself (no lock file is left behind); without one where locks are
    not to be had."""
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield
        return
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")))


def _write_split(root: Path, split: str, count: int, image_size: int, num_classes: int, seed: int) -> None:
    (root / split).mkdir()
    images, annotations = [], []
    for index in range(count):
        drawn = scene(split, index, image_size=image_size, num_classes=num_classes, seed=seed)
        image_id = _FIRST_IMAGE_ID[split] + index
        file_name = f"{image_id:08d}.png"
        Image.fromarray(drawn.image).save(root / split / file_name, compress_level=3)
        images.append({"id": image_id, "file_name": file_name, "width": image_size, "height": image_size, "license": 1})
        annotations += _annotations(drawn, image_id)
    _write_json(
        root / "annotations" / f"instances_{split}.json",
        {
            "info": {
                "description": f"{_NAME}, {split}",
                "version": str(GENERATOR_VERSION),
                "seed": seed,
            },
            "licenses": [{"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}],
            "images": images,
            "annotations": annotations,
            "categories": [
                {"id": category_id(c), "name": "-".join(class_badge(c)), "supercategory": "animal"}
                for c in range(num_classes)
            ],
        },
    )


def _annotations(drawn: Scene, image_id: int) -> list[dict]:
    """COCO annotations of a scene. `area` is the box's, as there is no mask; `badge` (xywh) is an extra:
    where the class is."""
    rows = []
    for k, thing in enumerate(drawn.objects):
        x, y, w, h = _xywh(thing.box)
        row = {
            "id": image_id * _MAX_OBJECTS + k + 1,
            "image_id": image_id,
            "category_id": category_id(thing.class_index),
            "bbox": [x, y, w, h],
            "area": w * h,
            "iscrowd": int(thing.iscrowd),
        }
        if thing.badge_box is not None:
            row["badge"] = _xywh(thing.badge_box)
        rows.append(row)
    return rows


def _xywh(box: tuple[float, float, float, float]) -> list[float]:
    x1, y1, x2, y2 = (float(v) for v in box)
    return [x1, y1, x2 - x1, y2 - y1]


def contact_sheet(
    root: str | os.PathLike, split: str = "train", *, columns: int = 8, rows: int = 5, zoom: int = 1
) -> Image.Image:
    """The first images of a split with their boxes (white; black for a crowd) and class names."""
    root = Path(root)
    content = json.loads((root / "annotations" / f"instances_{split}.json").read_text())
    images = content["images"][: columns * rows]
    names = {category["id"]: category["name"] for category in content["categories"]}
    side = images[0]["width"] * zoom
    sheet = Image.new("RGB", (columns * (side + 4), -(-len(images) // columns) * (side + 4)), (32, 32, 32))
    for k, entry in enumerate(images):
        tile = Image.open(root / split / entry["file_name"]).resize((side, side), Image.Resampling.LANCZOS)
        draw = ImageDraw.Draw(tile)
        for row in content["annotations"]:
            if row["image_id"] != entry["id"]:
                continue
            x, y, w, h = (v * zoom for v in row["bbox"])
            draw.rectangle((x, y, x + w - 1, y + h - 1), outline=(0, 0, 0) if row["iscrowd"] else (255, 255, 255))
            label = names[row["category_id"]] + (" crowd" if row["iscrowd"] else "")
            draw.text((x + 2, max(0, y - 10)), label, fill=(255, 255, 255), stroke_width=1, stroke_fill=(0, 0, 0))
        sheet.paste(tile, ((k % columns) * (side + 4) + 2, (k // columns) * (side + 4) + 2))
    return sheet


def main(arguments: list[str] | None = None) -> None:
    """Command line: writes the set and, with --preview, a contact sheet of its training images."""
    parser = argparse.ArgumentParser(
        prog="python -m mlc_ext.detectors.data.generated", description="write the generated data set"
    )
    parser.add_argument("out", type=Path, help="folder of the data set")
    for name, default in generate.__kwdefaults__.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--preview", type=Path, metavar="FILE", help="also write a contact sheet of training images")
    options = vars(parser.parse_args(arguments))
    out, preview = options.pop("out"), options.pop("preview")
    try:
        generate(out, **options)
    except (ValueError, FileExistsError) as error:
        parser.error(str(error))
    if preview is not None:
        preview.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(out).save(preview)
    print(f"{out}: {options['num_train']} training and {options['num_val']} validation images")


if __name__ == "__main__":
    main()
