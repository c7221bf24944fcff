"""Where the files of a COCO-format data set lie."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .images.files import did_you_mean

_LAYOUTS = (
    {"images": "{split}", "annotations": "annotations/instances_{split}.json"},
    {"images": "{split}2017", "annotations": "annotations/instances_{split}2017.json"},  # COCO's own
)


@dataclass(frozen=True)
class DatasetPaths:
    """Where the images and annotations of a data set lie; None for a split that was not requested."""

    train_images: Path | None = None
    train_annotations: Path | None = None
    val_images: Path | None = None
    val_annotations: Path | None = None


def find_dataset(
    data_dir: str | os.PathLike | None,
    *,
    splits: Sequence[str] = ("train", "val"),
    train_images: str | os.PathLike | None = None,
    train_annotations: str | os.PathLike | None = None,
    val_images: str | os.PathLike | None = None,
    val_annotations: str | os.PathLike | None = None,
) -> DatasetPaths:
    """Finds the files of a COCO-format data set.

    Knows two layouts under `data_dir`: `annotations/instances_{train,val}.json` with `train/` and `val/`, and
    COCO 2017's own `annotations/instances_{train,val}2017.json` with `train2017/` and `val2017/`. Each explicit
    path takes precedence; `data_dir` may be None if they cover the requested `splits`. Images and annotations of a
    split are never taken from different layouts.

    Raises:
        FileNotFoundError: lists all places that were searched.
    """
    explicit = {
        "train": {"images": train_images, "annotations": train_annotations},
        "val": {"images": val_images, "annotations": val_annotations},
    }
    found: dict[str, Path] = {}
    problems: list[str] = []
    for split in splits:
        if split not in explicit:
            raise ValueError(f'splits must be "train" or "val", got {split!r}')
        candidates = _candidates(data_dir, split, explicit[split])
        match = next((pair for pair in candidates if pair["images"].is_dir() and pair["annotations"].is_file()), None)
        if match is not None:
            found |= {f"{split}_{kind}": path for kind, path in match.items()}
            continue
        problems += [
            f"  {split}: {pair['images']} ({_state(pair['images'].is_dir())}) "
            f"with {pair['annotations']} ({_state(pair['annotations'].is_file())})"
            for pair in candidates
        ] or [f"  {split}: neither a data folder nor both paths of the split were given"]
    if problems:
        named = (data_dir, train_images, train_annotations, val_images, val_annotations)
        near = next((text for path in named if path is not None and (text := did_you_mean(path))), "")
        raise FileNotFoundError(f"data set not found{near}; looked for\n" + "\n".join(problems))
    return DatasetPaths(**found)


def find_split(data_dir: str | os.PathLike, name: str) -> tuple[Path, Path]:
    """(images, annotations) of a split of any name, in one of the layouts of :func:`find_dataset`.

    FileNotFoundError, with the places that were searched.
    """
    candidates = _candidates(data_dir, name, {})
    for pair in candidates:
        if pair["images"].is_dir() and pair["annotations"].is_file():
            return pair["images"], pair["annotations"]
    searched = "; ".join(f"{pair['images']} with {pair['annotations']}" for pair in candidates)
    raise FileNotFoundError(f"no split {name!r} in {data_dir}; looked for {searched}")


def _candidates(
    data_dir: str | os.PathLike | None, split: str, explicit: dict[str, str | os.PathLike | None]
) -> list[dict[str, Path]]:
    """Pairs of image folder and annotation file to try, in order."""
    given = {kind: Path(path) for kind, path in explicit.items() if path is not None}
    if len(given) == 2:
        return [given]
    if data_dir is None:
        return []
    layouts = [
        {kind: Path(data_dir) / path.format(split=split) for kind, path in layout.items()} for layout in _LAYOUTS
    ]
    return [{**layout, **given} for layout in layouts]


def _state(exists: bool) -> str:
    return "there" if exists else "absent"
