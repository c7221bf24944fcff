"""Where tools put the files of a COCO-format data set."""

from __future__ import annotations

from dataclasses import dataclass

SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
"""The names that tools give to a split."""

SPLIT_NAMES = {split: (*SPLITS[split], *map(str.capitalize, SPLITS[split])) for split in ("train", "val")}
"""The names of a split in file and folder names; CVAT's subsets are called Train and Validation."""


@dataclass(frozen=True)
class Layout:
    """Where a tool puts images and annotations; ``{split}`` stands for one of SPLIT_NAMES."""

    name: str
    annotations: str
    """Path of the JSON. ``*.json`` is the only JSON of its folder."""
    images: tuple[str, ...]
    """Image folders, of which the first that exists is used; ``.`` is the data folder itself, if it has images."""
    val: str = "val"
    """The tool's own name of the validation split, for messages."""

    @property
    def has_splits(self) -> bool:
        """False: one JSON lists all images."""
        return "{split}" in self.annotations


LAYOUTS = (
    Layout("COCO format", "annotations/instances_{split}.json", ("{split}", "images/{split}", "images")),
    Layout("COCO 2017", "annotations/instances_{split}2017.json", ("{split}2017", "images/{split}2017", "images")),
    Layout("Roboflow COCO", "{split}/_annotations.coco.json", ("{split}",), val="valid"),
    Layout("FiftyOne COCO", "{split}/labels.json", ("{split}/data",), val="validation"),
    Layout("images and a JSON per split", "{split}.json", ("{split}", "images/{split}", "images")),
    Layout("images and a JSON per split", "annotations/{split}.json", ("{split}", "images/{split}", "images")),
    Layout("CVAT COCO", "annotations/instances_default.json", ("images/default", "images")),
    Layout("Label Studio COCO", "result.json", ("images", ".")),
    Layout("FiftyOne COCO", "labels.json", ("data",)),
    Layout("Roboflow COCO", "_annotations.coco.json", (".",)),
    Layout("images and one JSON", "*.json", ("images", ".")),
    Layout("images and one JSON", "annotations/*.json", ("images", ".")),
)
"""In the order in which they are tried. Those of one JSON are tried only if no layout with splits is there."""
