"""What a data set has, before a training: its layout, objects by class and size, problems, and a picture with boxes.

    python detectors/check_data.py DIR
    python detectors/check_data.py DIR --set data.train_annotations=a.json --set data.train_images=photos

DIR is a folder in one of the layouts that training reads (COCO, Roboflow, CVAT, Label Studio, FiftyOne, ...). Every
image is decoded once, unless --fast is given. Sizes are COCO's: small objects have an area below 32 x 32 pixels, large
ones of at least 96 x 96. Warnings name what is likely to harm a training. They judge the sizes of boxes in resized
images: --set data.short_side=320 sets that size.

Exit code: 0, also with warnings; 2 for folders and options that cannot be used; 130 after Ctrl-C.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file: Python has put detectors/ itself on the path, not the folder above it
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import mlc_ext  # noqa: F401  (before other imports: it ends the process at Ctrl-C while they run)

import argparse
from collections.abc import Mapping

from mlc_ext.detectors import distributed
from mlc_ext.detectors.command_line import command, counted_reasons, make_parser, program_main, say, text_table
from mlc_ext.detectors.config.overrides import assign, override
from mlc_ext.detectors.config.settings import Config
from mlc_ext.detectors.data.build import CACHE, build_datasets, build_training_set, dataset_paths
from mlc_ext.detectors.data.coco.dataset import CocoDetection
from mlc_ext.detectors.data.errors import DatasetNotFound
from mlc_ext.detectors.data.inspection import class_counts, images_without_objects, likely_harm, shared_images
from mlc_ext.detectors.runs.files import check_writable, replacing, writing
from mlc_ext.detectors.visualization.contact_sheet import contact_sheet

_MOST_CLASSES = 100


def parse(arguments: list[str] | None = None, prog: str = "check_data.py") -> argparse.Namespace:
    parser = make_parser(prog, __doc__)
    parser.add_argument("data", metavar="DIR", help="folder of the data set")
    parser.add_argument("--out", type=Path, default=Path("contact_sheet.png"), metavar="FILE",
                        help="picture of images with their boxes (.png); default: contact_sheet.png")  # fmt: skip
    parser.add_argument("--images", type=int, default=12, metavar="N", help="images in the picture; default: 12")
    parser.add_argument("--fast", action="store_true", help="do not decode the images")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that decode; default: 0")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of data, repeatable")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(arguments)


@program_main("check_data.py", parse)
def main(options: argparse.Namespace, prog: str) -> int:
    config = _configuration(options)
    datasets, layouts = _datasets(config)
    for split, dataset in datasets.items():
        if not options.fast:
            dataset.verify(workers=options.workers, progress=not options.quiet)
        say(_section(split, dataset, layouts[split]))
    for line in _warnings(datasets, config):
        say(f"warning: {line}")
    sheet = contact_sheet(list(datasets.items()), options.images)
    with writing(options.out), replacing(options.out) as file:
        sheet.save(file, "PNG")
    say(f"{options.out}: images with their boxes")
    say(f"next: {command(prog, 'train', '--data', options.data, *_changes(options, datasets, config))}")
    return 0


def _configuration(options: argparse.Namespace) -> Config:
    if options.images < 1 or options.workers < 0:
        raise ValueError(f"--images must be at least 1 and --workers 0, got {options.images} and {options.workers}")
    if options.out.is_dir() or options.out.suffix.lower() != ".png":
        raise ValueError(f"--out must be a .png file, got {options.out}")
    check_writable(options.out)
    return assign(override(Config(), "data.data", options.data), options.set)


def _datasets(config: Config) -> tuple[dict[str, CocoDetection], dict[str, str | None]]:
    """The splits that are there, and their layouts."""
    data, found, layouts = config.data, {}, {}
    if data.val_fraction is not None:
        layout = dataset_paths(config, CACHE, ("train",)).train_layout
        train, val = build_datasets(config, CACHE)
        return {"train": train, "val": val}, {"train": layout, "val": layout}
    for split in ("train",) if data.val_is_train else ("train", "val"):
        try:
            paths = dataset_paths(config, CACHE, (split,))
        except DatasetNotFound:
            if getattr(data, f"{split}_images") or getattr(data, f"{split}_annotations"):
                raise
            continue
        layouts[split] = getattr(paths, f"{split}_layout")
        if split == "train":
            found[split] = build_training_set(config, CACHE)
        else:
            found[split] = CocoDetection(
                paths.val_images,
                paths.val_annotations,
                categories=data.categories,
                strict=data.strict,
                limit=data.validation_limit,
            )
    if not found:
        dataset_paths(config, CACHE)  # raises
    return found, layouts


def _section(split: str, dataset: CocoDetection, layout: str | None) -> str:
    """The text on a split."""
    heights, widths = dataset.sizes.T
    counts = class_counts(dataset)
    there = sorted((each for each in counts if each.objects), key=lambda each: -each.objects)
    rows = [("class", "objects", "images", "small", "medium", "large")]
    rows += [(each.name, *map(str, (each.objects, each.images, each.small, each.medium, each.large)))
             for each in there[:_MOST_CLASSES]]  # fmt: skip
    if len(counts) > 1:
        sums = (sum(getattr(each, name) for each in counts) for name in ("objects", "small", "medium", "large"))
        objects, small, medium, large = map(str, sums)
        rows.append(("all", objects, str(len(dataset) - images_without_objects(dataset)), small, medium, large))
    table = text_table(rows) if there else []
    if len(there) > _MOST_CLASSES:
        table.insert(-1, f"{len(there) - _MOST_CLASSES} more classes")
    if len(there) < len(counts):
        table.append(f"{len(counts) - len(there)} of {len(counts)} classes have no object")
    lines = [
        f"{dataset.name}, images in {dataset.image_dir} ({layout})",
        f"{len(dataset)} images of {widths.min()}..{widths.max()} x {heights.min()}..{heights.max()} pixels, "
        f"{images_without_objects(dataset)} without objects; {dataset.num_objects} objects, "
        f"{dataset.num_boxes - dataset.num_objects} crowds",
        *table,
        *(_counts("problems", dataset, dataset.findings.dropped) or ["no problems"]),
        *_counts("noted", dataset, dataset.findings.noted),
    ]
    return "\n  ".join([f"{split}:", *lines])


def _counts(title: str, dataset: CocoDetection, counts: Mapping[str, int]) -> list[str]:
    """A title and a line for each reason with its first place; nothing without any."""
    lines = counted_reasons(((k, n) for k, n in sorted(counts.items()) if n), dataset.findings.examples)
    return [f"{title}:", *(f"  {line}" for line in lines)] if lines else []


def _warnings(datasets: dict[str, CocoDetection], config: Config) -> list[str]:
    warnings = []
    for split, dataset in datasets.items():
        warnings += dataset.warnings()
        warnings += [f"{split}: {line}" for line in likely_harm(dataset, config.data)]
    if len(datasets) == 2:
        warnings += shared_images(datasets)
        try:
            datasets["val"].label_as(datasets["train"].classes.categories, datasets["train"].name)
        except ValueError as error:
            warnings.append(str(error))
    elif config.data.val_is_train:
        warnings.append("validation is on the training images (data.val_is_train)")
    else:
        missing = "val" if "train" in datasets else "train"
        hint = ": train with --set data.val_fraction=0.2" if missing == "val" else ""
        warnings.append(f"no {missing} split{hint}")
    return list(dict.fromkeys(warnings))


def _changes(options: argparse.Namespace, datasets: dict[str, CocoDetection], config: Config) -> list[str]:
    """The settings of a training of these data, as options."""
    has_validation = "val" in datasets or config.data.val_is_train
    settings = [*options.set, *([] if has_validation else ["data.val_fraction=0.2"])]
    return [word for each in settings for word in ("--set", each)]


if __name__ == "__main__":
    distributed.end_program(main())
