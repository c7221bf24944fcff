"""The data of a table: generated images or a COCO-format folder, with validation images that choices may be made on and
others that are held back from every choice."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mlc_ext.detectors.config.overrides import override
from mlc_ext.detectors.config.settings import Config
from mlc_ext.detectors.data.build import CACHE
from mlc_ext.detectors.data.generated.dataset import generate
from mlc_ext.detectors.data.paths import find_dataset

GENERATED = {"generated": 160, "generated256": 256}
"""{name: pixels}"""
COUNTS = {"num_train": 800, "num_val": 1000}
SPLITS = ("val", "test", "all")
"""Validation images that choices may be made on, those held back, and, of a folder, both."""
SIDE = 320
"""Pixels of the long side of a folder's images with ``--scale small``."""


@dataclass(frozen=True)
class Data:
    """Where the images are."""

    name: str
    """Of the folder, for --out."""
    side: int
    settings: dict[str, str]
    """Settings ``data.*`` of training and validation."""
    held_back: dict[str, str]
    """Those to be changed for the images held back; empty without any."""
    whole: dict[str, str]
    """Those to be changed for all validation images of a folder, those held back too; empty without any held back."""

    @property
    def evaluated(self) -> tuple[str, ...]:
        """The splits that every row is evaluated on; "all" is both of them."""
        return ("val", "test") if self.held_back else ("val",)

    def changes(self, split: str) -> dict[str, str]:
        """The settings to be changed for the images of ``split``, one of :data:`SPLITS`."""
        return {"val": {}, "test": self.held_back, "all": self.whole}[split]

    def with_split(self, config: Config, split: str) -> Config:
        """``config`` with the images of ``split`` in the place of the validation images."""
        for name, value in self.changes(split).items():
            config = override(config, name, value)
        return config


def prepare(
    source: str, *, held_back: float = 0.0, classes: int | None = None, cache: Path = CACHE, counts: dict = COUNTS
) -> Data:
    """The data named ``source``: "generated" (160 px), "generated256", or the path of a COCO-format folder.

    Generated sets have 1,000 validation images, and 1,000 of another seed held back.

    Args:
        held_back: of a folder, the share of its validation images that is held back, chosen by a hash of their ids.
        classes: of a folder, use the so many categories with the most training objects.
        cache: where generated sets and the parts' annotation files are written.
    """
    if source in GENERATED:
        side = GENERATED[source]
        root = generate(cache / f"paper_{source}_{counts['num_train']}", image_size=side, **counts)
        other = generate(
            cache / f"paper_{source}_held_back", image_size=side, num_train=1, num_val=counts["num_val"], seed=1
        )
        test = find_dataset(other, splits=("val",))
        held = {"data.val_images": str(test.val_images), "data.val_annotations": str(test.val_annotations)}
        return Data(source, side, {"data.data": str(root)}, held, {})
    paths = find_dataset(source, splits=("train", "val"))
    settings, held, whole = {"data.data": source}, {}, {}
    if classes is not None:
        settings["data.categories"] = ",".join(_most_frequent(Path(paths.train_annotations), classes))
    if held_back > 0:
        folder = cache / f"paper_{Path(source).resolve().name}_{held_back:g}"
        parts = _split(Path(paths.val_annotations), folder, held_back)
        settings |= {"data.val_images": str(paths.val_images), "data.val_annotations": str(parts[0])}
        held = {"data.val_annotations": str(parts[1])}
        whole = {"data.val_annotations": str(paths.val_annotations)}
    return Data(Path(source).resolve().name, SIDE, settings, held, whole)


def _most_frequent(annotations: Path, count: int) -> list[str]:
    content = json.loads(annotations.read_text())
    objects = Counter(row["category_id"] for row in content["annotations"])
    names = {category["id"]: category["name"] for category in content["categories"]}
    chosen = {category for category, _ in objects.most_common(count)}
    return [names[category] for category in sorted(chosen)]


def _split(annotations: Path, folder: Path, share: float) -> tuple[Path, Path]:
    """The annotations of the images that are kept, and of those held back, as files in ``folder``."""
    content = json.loads(annotations.read_text())
    ids = sorted(
        (image["id"] for image in content["images"]),
        key=lambda number: hashlib.sha256(str(number).encode()).hexdigest(),
    )
    held = set(ids[: round(share * len(ids))])
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "kept.json", folder / "held_back.json"
    for path, wanted in zip(paths, (set(ids) - held, held), strict=True):
        part = content | {
            "images": [image for image in content["images"] if image["id"] in wanted],
            "annotations": [row for row in content["annotations"] if row["image_id"] in wanted],
        }
        path.write_text(json.dumps(part))
    return paths


def epochs_for(steps: int, iterations_per_epoch: int, switch: float) -> int:
    """The epochs of a schedule whose part after ``switch`` / 19 has at least ``steps`` steps."""
    return math.ceil(steps * 19 / (19 - switch) / iterations_per_epoch)


def with_side(config: Config, side: int) -> Config:
    """``config`` with images of ``side`` pixels at most."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, short_side=side, long_side=side))
