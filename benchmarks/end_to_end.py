"""Whole detectors on a GPU: python benchmarks/end_to_end.py [--device cuda] [--json FILE] [--markdown FILE]

FCOS and RetinaNet R50-FPN with random weights, images and boxes; the images are on the device already. A training step
is the trainer's own (forward, criterion, backward, clipping, SGD): the baseline, with mutual labelling (+ML) and with
the whole method (+MLC), mutual labelling on; torchvision's detectors beside them, of the same backbone, frozen parts,
precision and memory layout. Inference ends with the detections of every image; its classifiers say 0.5 to everything,
so that NMS gets all the candidates it can.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from _harness import Settings, circumstances, facts, write_record
from _steps import NUM_CLASSES, Turns, add_batch_arguments, bare, batch, criterion, take_turns
from _torchvision import torchvision, why_not
from _verdicts import Verdict, table
from torch import Tensor, nn

import mlc_ext
from detectors import numerics
from detectors.builder import build_model
from detectors.config import override
from detectors.presets import preset
from detectors.step import Stepper

DETECTORS = ("fcos", "retinanet")
METHODS = {"": "baseline", "_ml": "+ML", "_mlc": "+MLC"}
MOST = {"_ml": 1.01, "_mlc": 1.02}
"""Of the baseline's step."""
TORCHVISION = "torchvision"
TRIAL = "A trial of the program: no GPU, or small images. No target is judged by it."
LEAST_RATE = 1.5
"""Of torchvision's images a second."""
LIMITS = {"score_thresh": 0.05, "nms_thresh": 0.5, "detections_per_img": 100, "topk_candidates": 1000}


@dataclass(frozen=True)
class Setting:
    device: str = "cuda"
    precision: str = "bf16"
    height: int = 800
    width: int = 1333
    images: int = 16
    rounds: int = 10
    backbone: str = "resnet50"

    @property
    def target(self) -> torch.device:
        return torch.device(self.device)

    def synchronize(self) -> None:
        Settings(self.device).synchronize()


@dataclass
class Measured:
    """A detector's contestants by name: seconds of a training step, of its criterion alone, of a batch's inference."""

    training: dict[str, Turns] = field(default_factory=dict)
    criterion: dict[str, Turns] = field(default_factory=dict)
    inference: dict[str, Turns] = field(default_factory=dict)
    nms_seconds: float | None = None
    """Of batched_rescored_nms within +MLC's inference, called alone."""
    without_peer: str = ""
    """Why torchvision is not among them."""

    def rate(self, part: str, name: str, images: int) -> float | None:
        """Images a second."""
        turns = getattr(self, part).get(name)
        return turns and images / turns.least


def configuration(name: str, setting: Setting):
    config = override(bare(preset(name)), "mlc.start_epoch", 0.0)
    for key, value in (("model.backbone", setting.backbone), ("schedule.precision", setting.precision),
                       ("run.channels_last", True), ("schedule.warmup_iterations", 0), ("schedule.lr", 1e-6)):
        config = override(config, key, value)
    return config


def our_model(name: str, setting: Setting) -> tuple[nn.Module, object]:
    config = configuration(name, setting)
    torch.manual_seed(0)
    model = build_model(config, NUM_CLASSES).to(setting.target)
    numerics.prepare(model, config.run)
    return model, config


def peer_model(vision, detector: str, setting: Setting) -> nn.Module:
    """torchvision's, of the same parts: frozen statistics and first stage, levels 3 to 7."""
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
    from torchvision.models.detection.fcos import FCOS
    from torchvision.models.detection.retinanet import RetinaNet
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    torch.manual_seed(0)
    trunk = getattr(vision.models, setting.backbone)(weights=None, norm_layer=vision.ops.misc.FrozenBatchNorm2d)
    extra = LastLevelP6P7(trunk.fc.in_features if detector == "retinanet" else 256, 256)
    backbone = _resnet_fpn_extractor(trunk, 3, returned_layers=[2, 3, 4], extra_blocks=extra)
    kind = {"fcos": FCOS, "retinanet": RetinaNet}[detector]
    model = kind(backbone, NUM_CLASSES + 1, _skip_resize=True, **LIMITS)
    return model.to(setting.target, memory_format=torch.channels_last)


def our_step(name: str, setting: Setting, images: list[Tensor], targets: list[dict]) -> Callable[[], None]:
    model, config = our_model(name, setting)
    stepper = Stepper(model.train(), config, 1000, setting.target)
    stepper.connect()
    targets = [target | {"image_id": k} for k, target in enumerate(targets)]
    iteration = iter(range(2**62))
    return lambda: stepper.take(next(iteration), images, targets, len(images))


def peer_step(vision, detector: str, setting: Setting, images: list[Tensor], targets: list[dict]) -> Callable[[], None]:
    model = peer_model(vision, detector, setting).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-6, momentum=0.9, weight_decay=1e-4)
    targets = [{key: value.to(setting.target) for key, value in target.items()} for target in targets]

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with numerics.autocast(setting.target, setting.precision):
            loss = sum(model(images, targets).values())
        loss.backward()
        optimizer.step()

    return run


def in_precision(run: Callable, setting: Setting) -> Callable:
    def cast():
        with numerics.autocast(setting.target, setting.precision):
            return run()

    return cast


def undecided(model: nn.Module) -> nn.Module:
    """All class scores 0.5: as many candidates as there can be."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and name.rsplit(".", 1)[-1] == "cls_logits":
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return model


def detection(model: nn.Module, setting: Setting, images: list[Tensor]) -> Callable[[], object]:
    model = undecided(model).eval()
    return in_precision(torch.inference_mode()(lambda: model(images)), setting)


def seconds_of_nms(run: Callable[[], object], setting: Setting) -> float:
    """Of the NMS within an inference, called alone on what it was given there."""
    given = []
    original = mlc_ext.batched_rescored_nms

    def record(*args, **kwargs):
        given.append((args, kwargs))
        return original(*args, **kwargs)

    mlc_ext.batched_rescored_nms = record
    try:
        run()
    finally:
        mlc_ext.batched_rescored_nms = original
    ((args, kwargs),) = given
    return take_turns({"nms": lambda: original(*args, **kwargs)}, 20, setting.synchronize)["nms"].least


def measure_detector(detector: str, setting: Setting) -> Measured:
    images, targets = batch(setting.height, setting.width, setting.images)
    images = [image.to(setting.target) for image in images]
    result = Measured(without_peer=why_not(setting.device))
    vision = torchvision(setting.device)

    steps = {METHODS[m]: our_step(f"{detector}_r50{m}", setting, images, targets) for m in METHODS}
    if vision is not None:
        steps[TORCHVISION] = peer_step(vision, detector, setting, images, targets)
    result.training = take_turns(steps, setting.rounds, setting.synchronize)
    steps.clear()

    criteria = {}
    for suffix, name in METHODS.items():
        model, _ = our_model(f"{detector}_r50{suffix}", setting)
        with numerics.autocast(setting.target, setting.precision):
            criteria[name] = in_precision(criterion(model.train(), images, targets), setting)
    result.criterion = take_turns(criteria, 2 * setting.rounds, setting.synchronize)
    criteria.clear()

    runs = {METHODS[m]: detection(our_model(f"{detector}_r50{m}", setting)[0], setting, images) for m in ("", "_mlc")}
    if vision is not None:
        runs[TORCHVISION] = detection(peer_model(vision, detector, setting), setting, images)
    result.inference = take_turns(runs, setting.rounds, setting.synchronize)
    result.nms_seconds = seconds_of_nms(runs["+MLC"], setting)
    return result


def verdicts_of(detector: str, measured: Measured | None, images: int) -> list[Verdict]:
    """None measured: nothing of the detector could be."""
    measured = measured or Measured()
    note = f"no torchvision: {measured.without_peer}" if measured.without_peer else ""

    def quotient(part: str, over: str, under: str) -> float | None:
        a, b = (measured.rate(part, name, images) for name in (over, under))
        return a / b if a and b else None

    found = []
    for suffix, most in MOST.items():
        name = METHODS[suffix]
        ratio = quotient("training", "baseline", name)  # of rates, hence the other way around
        found.append(Verdict(detector, f"training step, {name} / baseline", "x", most, True, ratio))
    for part in ("training", "inference"):
        ratio = quotient(part, "baseline", TORCHVISION)
        found.append(Verdict(detector, f"{part}, images/s over torchvision's", "x", LEAST_RATE, False, ratio, note))
    return found


def as_dict(measured: Measured, images: int) -> dict[str, object]:
    record: dict[str, object] = {"without_torchvision": measured.without_peer}
    for part in ("training", "criterion", "inference"):
        record[part] = {
            name: {
                "least_ms": 1e3 * turns.least,
                "median_ms": 1e3 * turns.median,
                "images_per_second": images / turns.least,
            }
            for name, turns in getattr(measured, part).items()
        }
    record["nms_ms"] = measured.nms_seconds and 1e3 * measured.nms_seconds
    return record


def markdown(results: dict[str, Measured | str], setting: Setting, verdicts: list[Verdict], found: dict) -> str:
    lines = [
        f"{circumstances(found)} of {setting.rounds} turns; {setting.images} images of {setting.height} x "
        f"{setting.width}, {setting.precision}, random weights.",
        "",
        "| detector | | training step | images/s | criterion | inference | images/s |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for detector, measured in results.items():
        if isinstance(measured, str):
            lines.append(f"| {detector} | failed: {measured} | | | | | |")
            continue
        for name in measured.training:
            cells = [detector, name]
            for part, rated in (("training", True), ("criterion", False), ("inference", True)):
                turns = getattr(measured, part).get(name)
                cells.append("-" if turns is None else f"{1e3 * turns.least:.2f}")
                if rated:
                    cells.append("-" if turns is None else f"{setting.images / turns.least:.1f}")
            lines.append(f"| {' | '.join(cells)} |")
        share = measured.nms_seconds / measured.inference["+MLC"].least
        lines.append(f"| {detector} | NMS of +MLC | - | - | - | {1e3 * measured.nms_seconds:.3f} ({share:.1%}) | - |")
    return "\n".join([*lines, "", *(table(verdicts) if verdicts else [TRIAL])]) + "\n"


def run(setting: Setting, trial: bool) -> tuple[dict[str, object], str, bool]:
    """-> (record, markdown, whether everything could be measured)."""
    torch.backends.cudnn.benchmark = True
    found = facts(Settings(setting.device))
    results: dict[str, Measured | str] = {}
    for detector in DETECTORS:
        try:
            results[detector] = measure_detector(detector, setting)
        except Exception as error:  # the other detector is measured all the same
            results[detector] = f"{type(error).__name__}: {error}".splitlines()[0]
        if setting.device == "cuda":
            torch.cuda.empty_cache()
    verdicts = []
    if not trial:
        for detector, measured in results.items():
            verdicts += verdicts_of(detector, None if isinstance(measured, str) else measured, setting.images)
    record = {
        **found,
        "trial": trial,
        "setting": vars(setting),
        "detectors": {
            name: {"error": m} if isinstance(m, str) else as_dict(m, setting.images) for name, m in results.items()
        },
        "verdicts": [verdict.as_dict() for verdict in verdicts],
    }
    complete = not any(isinstance(measured, str) for measured in results.values())
    return record, markdown(results, setting, verdicts, found), complete


def main() -> int:
    parser = argparse.ArgumentParser(description="Whole detectors on a GPU against their targets.")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    add_batch_arguments(parser, short_side=800, batch_size=16)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    height = arguments.short_side
    setting = Setting(
        device=arguments.device,
        precision="bf16" if arguments.device == "cuda" else "fp32",
        height=height,
        width=height * 5 // 3,
        images=arguments.batch_size,
        rounds=arguments.rounds,
    )
    record, text, complete = run(setting, trial=arguments.device == "cpu" or height != 800)
    print(text)
    write_record(arguments, record, text)
    return 0 if complete else 1


if __name__ == "__main__":
    raise SystemExit(main())
