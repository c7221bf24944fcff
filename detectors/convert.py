"""A data set in the format of YOLO or Pascal VOC, written in COCO's format.

    python detectors/convert.py SRC DST

YOLO: data.yaml with images/ and labels/, or a classes.txt with labels in labels/ or beside the images; polygons become
boxes. Pascal VOC: an XML for each image in Annotations/, with JPEGImages/ or images/, or beside the images; the lists
in ImageSets/Main/ are the splits.

DST gets annotations/instances_{train,val,test}.json and a folder of images for each split: hard links, or copies with
--copy and where links are not possible. Without a validation split, train with --set data.val_fraction=0.2.

Boxes and images are counted in SRC, and again in DST, which is read after it was written. What cannot be used is
counted by reason. Pascal VOC numbers pixels from 1, most other tools from 0. --voc-origin sets this number; by default
it is 0 if a corner below 1 is found, else 1.

Exit code: 0; 2 for folders and options that cannot be used; 130 after Ctrl-C.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file: Python has put detectors/ itself on the path, not the folder above it
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import mlc_ext  # noqa: F401  (before other imports: it ends the process at Ctrl-C while they run)

import argparse
import json
from collections import Counter

from mlc_ext.detectors import distributed
from mlc_ext.detectors.command_line import command, counted_reasons, make_parser, program_main, say, text_table
from mlc_ext.detectors.data.coco.ground_truth import GroundTruth
from mlc_ext.detectors.data.conversion.formats import VOC, YOLO, foreign_format
from mlc_ext.detectors.data.conversion.source import UNKNOWN, Source
from mlc_ext.detectors.data.conversion.voc import read_voc
from mlc_ext.detectors.data.conversion.write import check_target, coco_content, place_images
from mlc_ext.detectors.data.conversion.yolo import read_yolo
from mlc_ext.detectors.data.images.files import did_you_mean
from mlc_ext.detectors.runs.files import check_writable, write_whole


def parse(arguments: list[str] | None = None, prog: str = "convert.py") -> argparse.Namespace:
    parser = make_parser(prog, __doc__)
    parser.add_argument("source", type=Path, metavar="SRC", help="folder of the data set")
    parser.add_argument("target", type=Path, metavar="DST", help="new folder")
    parser.add_argument("--format", choices=("yolo", "voc"), help="of SRC; default: by its files")
    parser.add_argument("--copy", action="store_true", help="copy the images instead of hard links")
    parser.add_argument("--voc-origin", type=int, choices=(0, 1), help="number of the first pixel in VOC's XML files")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(arguments)


@program_main("convert.py", parse)
def main(options: argparse.Namespace, prog: str) -> int:
    source = _read(options)
    splits = [split for split, images in source.splits.items() if images]
    if not splits:
        raise ValueError(f"{options.source}: no image can be used: {'; '.join(_lines(source.problems, source))}")
    if not source.categories:
        raise ValueError(f"{options.source}: no object has a class")
    check_writable(options.target / "annotations" / f"instances_{splits[0]}.json")
    linked, copied = place_images(source, options.target, copy=options.copy, progress=not options.quiet)
    written = {}
    for split in splits:  # last: a folder without JSON is not taken for a data set
        path = options.target / "annotations" / f"instances_{split}.json"
        write_whole(path, json.dumps(coco_content(source, split)))
        written[split] = GroundTruth(path)
        for reason, count in written[split].dropped.items():
            source.lose(f"{reason} in what was written", str(path), count)
    say(f"{source.format} in {options.source}: converted to {options.target}, {linked} images linked, {copied} copied")
    if source.convention:
        say(source.convention)
    say(_table(source, written))
    for title, counts in (("boxes lost", source.lost), ("files not used", source.problems), ("noted", source.notes)):
        if counts:
            say("\n  ".join([f"{title}:", *_lines(counts, source)]))
    if "train" in splits and "val" not in splits:
        say("no validation split: train with --set data.val_fraction=0.2")
    say(f"next: {command(prog, 'data', options.target)}")
    return 0


def _read(options: argparse.Namespace) -> Source:
    if options.source.is_file():
        raise NotADirectoryError(f"{options.source} is a file: give its folder")
    if not options.source.is_dir():
        raise FileNotFoundError(f"no folder {options.source}{did_you_mean(options.source)}")
    check_target(options.target)
    kind = {"yolo": YOLO, "voc": VOC, None: None}[options.format] or foreign_format(options.source)
    if kind is None:
        raise ValueError(
            f"{options.source} has neither data.yaml, labels/ or classes.txt (YOLO) nor XML files (Pascal VOC); data "
            "in COCO's format need no conversion"
        )
    if kind == VOC:
        return read_voc(options.source, options.voc_origin)
    if options.voc_origin is not None:
        raise ValueError(f"--voc-origin is for Pascal VOC, {options.source} is in the format of YOLO")
    return read_yolo(options.source)


def _table(source: Source, written: dict[str, GroundTruth]) -> str:
    """Images and boxes of each split, and boxes of each class: found in SRC and read back from DST."""
    rows = [("", "images found", "written", "boxes found", "written")]
    boxes_after: Counter[str] = Counter()
    splits = {*source.images_found, *(split for split, _ in source.boxes_found)}
    for split in sorted(splits, key=lambda split: (split != "train", split)):
        truth = written.get(split)
        before = sum(count for (own, _), count in source.boxes_found.items() if own == split)
        after = 0 if truth is None else len(truth.table)
        images = 0 if truth is None else len(truth.image_ids)
        shown = "no split" if split == UNKNOWN else split
        rows.append((shown, *map(str, (source.images_found[split], images, before, after))))
        for label in [] if truth is None else truth.table.labels:
            boxes_after[truth.classes.names[label - 1]] += 1
    before_by_class: Counter[str] = Counter()
    for (_, name), count in source.boxes_found.items():
        before_by_class[name] += count
    for name in [*source.categories, *([UNKNOWN] if before_by_class[UNKNOWN] else [])]:
        shown = "unknown class" if name == UNKNOWN else name
        rows.append((f"  {shown}", "", "", str(before_by_class[name]), str(boxes_after[name])))
    return "\n".join(text_table(rows))


def _lines(counts: Counter[str], source: Source) -> list[str]:
    """A line for each reason with its first place, the most frequent first."""
    return counted_reasons(counts.most_common(), source.examples)


if __name__ == "__main__":
    distributed.end_program(main())
