"""A trained detector on images and videos: draws what it finds, and writes it as JSON in COCO's results format.

    python detectors/predict.py runs/demo/checkpoint.pt photo.jpg holiday/ 'more/**/*.jpg' --out found
    python detectors/predict.py runs/demo/checkpoint.pt clip.mp4 --every 5 --out found
    torchrun --nproc-per-node 8 detectors/predict.py runs/demo/checkpoint.pt holiday/ --out found

OUT gets a drawing of every image (found/photo.jpg.png, found/holiday/...) and predictions.json: COCO's result rows with
file names beside. An image id is the file's number, if all file names are distinct numbers, as COCO's are; otherwise
1, 2, ... An image's EXIF rotation is applied, and boxes are in pixels of the rotated image. Drawings of small images
are enlarged; their rows have the factor as drawing_scale. Images that cannot be read are reported and left out.
predictions.json is written in any case; after Ctrl-C in a single process, with the images so far. From Python:
mlc_ext.detectors.load.

Videos (pip install 'mlc-ext[video]') are recognized by their suffix, such as .mp4, .mov, .mkv, .avi or .webm, also in
folders. OUT gets found/clip.mp4 (of clip.avi: clip.avi.mp4), H.264 without sound, with each frame shown at its own
time. Rows have the frame's number, from 0, and its time in seconds; frame f of the k-th video has the image id
1000000000 * k + f. A rotation is applied. Of a video that is damaged or cut off, the frames before are kept, and the
fault is reported; so they are after Ctrl-C. Under torchrun a video is predicted on by one process.

Exit code: 0; 1 if some file could not be read, or not to its end, or not be drawn; 2 if nothing could be done, or the
disk of OUT is full; 130 after Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file: Python has put detectors/ itself on the path, not the folder above it
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import mlc_ext  # noqa: F401  (before other imports: it ends the process at Ctrl-C while they run)

import argparse
import os

from mlc_ext.detectors import distributed
from mlc_ext.detectors.command_line import command, make_parser, print_error, program_main, say
from mlc_ext.detectors.prediction.images import find_images, is_video
from mlc_ext.detectors.prediction.predictor import Predictor
from mlc_ext.detectors.prediction.run import RESULTS, Progress, predict
from mlc_ext.detectors.prediction.video_reader import import_pyav
from mlc_ext.detectors.runs.files import check_writable


def parse(arguments: list[str] | None = None, prog: str = "predict.py") -> argparse.Namespace:
    parser = make_parser(prog, __doc__)
    parser.add_argument(
        "checkpoint",
        type=Path,
        help="a run's folder (its best.pt, else checkpoint.pt), a checkpoint, or a file of `mlc-ext export`",
    )
    parser.add_argument(
        "images", type=_path, nargs="+", metavar="IMAGE|VIDEO|FOLDER|PATTERN", help="what to predict on"
    )
    parser.add_argument("--out", type=Path, default=Path("predictions"), metavar="DIR", help="default: predictions")
    parser.add_argument("--recursive", action="store_true", help="folders within folders too")
    parser.add_argument(
        "--score-threshold",
        type=float,
        metavar="S",
        help="keep what scores above; default: 0.3, of "
        "proposals 0.5; what the detector itself drops (below 0.05) does not come back",
    )
    parser.add_argument("--json", action="store_true", help="write predictions.json only, draw nothing")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every N-th frame of a video; default: 1")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images at a time; default: 8 on a GPU, 1 on a CPU")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 or auto (default)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(arguments)


def _path(text: str) -> Path:
    if not text:  # of an unset variable, for example; Path("") would be the current folder
        raise argparse.ArgumentTypeError("a path must not be empty")
    return Path(text)


@program_main("predict.py", parse)
def main(options: argparse.Namespace, prog: str) -> int:
    with distributed.session(options.device):
        with distributed.together():
            found = _inputs(options) if distributed.is_main() else None
        files, unlisted = distributed.broadcast(found)
        with distributed.together():
            predictor = Predictor(options.checkpoint, options.device)
        threshold = options.score_threshold
        if threshold is None:
            threshold = 0.5 if predictor.classes.agnostic else 0.3
        done = predict(
            predictor,
            files,
            options.out,
            score_threshold=threshold,
            batch_size=options.batch_size,
            every=options.every,
            draw=not options.json,
            progress=not options.quiet,
        )
        failed = unlisted | {files[number][0]: done.errors[number] for number in sorted(done.errors)}
        if distributed.is_main():
            for path, why in failed.items():
                print_error(prog, f"{path}: {why}")
            if done.interrupted:
                print_error(prog, "interrupted")
            say(_summary(options, [path for path, _ in files], done))
            if not (failed or done.interrupted) and predictor.config is not None:  # not an exported file
                say(f"next: {command(prog, 'export', options.checkpoint, '--format', 'onnx')}")
    return 130 if done.interrupted else 1 if failed else 0


def _inputs(options: argparse.Namespace) -> tuple[list[tuple[Path, Path]], dict[Path, str]]:
    """The images and videos with the places of their drawings, and the folders that cannot be listed. Checks the
    options and OUT too."""
    threshold = options.score_threshold
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"--score-threshold must be in 0..1, got {threshold}")
    for name, number in (("batch-size", options.batch_size), ("every", options.every)):
        if number is not None and number < 1:
            raise ValueError(f"--{name} must be at least 1, got {number}")
    unlisted: dict[Path, str] = {}
    files = list(find_images(options.images, options.recursive, options.out, unlisted, videos=True))
    if not files:
        raise ValueError(f"no images in {', '.join(map(str, options.images))} (--recursive looks deeper)")
    videos = [(path, options.out / place) for path, place in files if is_video(path)]
    if len(videos) == len(files):
        import_pyav()  # without it nothing could be done
    if not options.json:
        given = {os.path.realpath(path) for path, _ in videos}
        for path, drawing in videos:
            if os.path.realpath(drawing) in given:
                raise ValueError(f"the drawing of {path} would replace {drawing}: choose another --out")
    check_writable(options.out / RESULTS)
    return files, unlisted


def _summary(options: argparse.Namespace, files: list[Path], done: Progress) -> str:
    videos = sum(map(is_video, files))
    images, frames = len(done.found) - len(done.frames), sum(done.frames.values())
    parts = [f"{images} of {len(files) - videos} images"] if videos < len(files) else []
    if videos:
        parts.append(f"{frames} frames of {sum(map(bool, done.frames.values()))} of {videos} videos")
    text = f"{options.out / RESULTS}: {len(done.rows)} boxes on {' and '.join(parts)}"
    text += f", {(images + frames) / done.seconds:.1f} {'frames' if videos else 'images'}/s"
    return text if options.json else f"{text}; drawings in {options.out}"


if __name__ == "__main__":
    distributed.end_program(main())
