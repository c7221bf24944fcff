"""Whole detectors on a GPU: python benchmarks/end_to_end.py [--device cuda] [--json FILE] [--markdown FILE]

FCOS and RetinaNet R50-FPN with random weights, images and boxes; the images are on the device already. A training step
is the trainer's own (forward, criterion, backward, clipping, SGD): the baseline, with mutual labeling (+ML) and with
the whole method (+MLC), mutual labeling on; torchvision's detectors beside them, as its own builders make them and
without clipping. Inference ends with the detections of every image; its classifiers say 0.5 to everything, so that NMS
gets all the candidates it can.

Before anything is timed, the detectors are compared: backbone and pyramid must have the same number of trainable
parameters, heads differ by HEAD_DIFFERENCE, and the backbones must see inputs of the same shape and memory layout, in
training and in inference. A difference fails the detector. All run under the same autocast; torchvision's
FrozenBatchNorm2d returns float32 under bfloat16, and what follows it up to the next convolution is float32.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from _harness import Settings, circumstances, facts, write_record
from _steps import NUM_CLASSES, Turns, add_batch_arguments, bare, batch, criterion, image_size, take_turns
from _torchvision import torchvision, why_not
from _verdicts import Verdict, table
from torch import Tensor, nn

import mlc_ext
from mlc_ext.detectors.config.overrides import override
from mlc_ext.detectors.config.presets import preset
from mlc_ext.detectors.engine import precision
from mlc_ext.detectors.engine.train_step import Stepper
from mlc_ext.detectors.models.build import build_model

DETECTORS = ("fcos", "retinanet")
METHODS = {"": "baseline", "_ml": "+ML", "_mlc": "+MLC"}
MOST = {"_ml": 1.01, "_mlc": 1.02}
"""Of the baseline's step."""
TORCHVISION = "torchvision"
CONTIGUOUS = "torchvision, contiguous"
"""Its default memory layout; the other runs in ours, channels_last."""
TRIAL = "A trial of the program: no GPU, or small images. No target is judged by it."
LEAST_RATE = 1.5
"""Of torchvision's images a second."""
FROZEN_STAGES = 2
"""Stem and first stage: MMDetection's 1, torchvision's three trainable layers of five."""
HEAD_DIFFERENCE = {"fcos": 5 - 8 * 256, "retinanet": 0}
"""Trainable parameters, ours minus torchvision's. FCOS: a scale for each level, no biases before GroupNorm."""
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


@dataclass(frozen=True)
class Seen:
    """The input of a backbone."""

    shape: tuple[int, ...]
    channels_last: bool

    def __str__(self) -> str:
        layout = "channels_last" if self.channels_last else "contiguous"
        return f"{' x '.join(map(str, self.shape))}, {layout}"


@dataclass
class Contestant:
    model: nn.Module
    run: Callable[[], object]

    @property
    def trunk(self) -> nn.Module:
        """The ResNet; torchvision's backbone has the pyramid in it."""
        return getattr(self.model.backbone, "body", self.model.backbone)

    def trainable(self) -> dict[str, int]:
        pyramid = getattr(self.model, "fpn", None) or self.model.backbone.fpn
        parts = {"backbone": self.trunk, "pyramid": pyramid, "head": self.model.head}
        return {k: sum(p.numel() for p in part.parameters() if p.requires_grad) for k, part in parts.items()}

    def seen(self) -> Seen:
        """Of one run."""
        found = []

        def look(module: nn.Module, given: tuple[Tensor]) -> None:
            (x,) = given
            found.append(Seen(tuple(x.shape), x.is_contiguous(memory_format=torch.channels_last)))

        handle = self.trunk.register_forward_pre_hook(look)
        try:
            self.run()
        finally:
            handle.remove()
        (only,) = found
        return only


def same_inputs(contestants: dict[str, Contestant]) -> Seen:
    """The input of all backbones; AssertionError where it differs, but for the layout of CONTIGUOUS."""
    seen = {name: contestant.seen() for name, contestant in contestants.items()}
    if CONTIGUOUS in seen:
        seen[CONTIGUOUS] = replace(seen[CONTIGUOUS], channels_last=seen["baseline"].channels_last)
    if len(set(seen.values())) > 1:
        raise AssertionError(f"the backbones do not run alike: {'; '.join(f'{k}: {v}' for k, v in seen.items())}")
    return seen["baseline"]


def same_parameters(detector: str, contestants: dict[str, Contestant]) -> dict[str, dict[str, int]]:
    """Trainable parameters of the baseline and torchvision's detector; AssertionError where they do not correspond."""
    counts = {k: contestants[k].trainable() for k in ("baseline", TORCHVISION) if k in contestants}
    if TORCHVISION in counts:
        difference = {part: ours - counts[TORCHVISION][part] for part, ours in counts["baseline"].items()}
        if difference != {"backbone": 0, "pyramid": 0, "head": HEAD_DIFFERENCE[detector]}:
            raise AssertionError(f"trainable parameters do not correspond: {counts}")
    return counts


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
    trainable: dict[str, dict[str, int]] = field(default_factory=dict)
    """Parameters of backbone, pyramid and head."""
    inputs: dict[str, Seen] = field(default_factory=dict)
    """Of the backbones, in training and in inference."""

    def rate(self, part: str, name: str, images: int) -> float | None:
        """Images a second."""
        turns = getattr(self, part).get(name)
        return turns and images / turns.least


def configuration(name: str, setting: Setting):
    """The preset with mutual labeling on; statistics and affine parameters of batch norm are constants, as in
    torchvision's."""
    config = bare(preset(name))
    for key, value in (
        ("mlc.start_epoch", 0.0),
        ("model.backbone", setting.backbone),
        ("model.norm", "fixed"),
        ("model.frozen_stages", FROZEN_STAGES),
        ("schedule.precision", setting.precision),
        ("run.channels_last", True),
        ("schedule.warmup_iterations", 0),
        ("schedule.lr", 1e-6),
    ):
        config = override(config, key, value)
    return config


def our_model(name: str, setting: Setting) -> tuple[nn.Module, object]:
    config = configuration(name, setting)
    torch.manual_seed(0)
    model = build_model(config, NUM_CLASSES).to(setting.target)
    precision.prepare(model, config.run)
    return model, config


def peer_model(vision, detector: str, setting: Setting, *, channels_last: bool = True) -> nn.Module:
    """torchvision's, of the same parts: frozen batch norm, stem and first stage, levels 3 to 7, 80 classes."""
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
    from torchvision.models.detection.fcos import FCOS
    from torchvision.models.detection.retinanet import RetinaNet
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    torch.manual_seed(0)
    trunk = getattr(vision.models, setting.backbone)(weights=None, norm_layer=vision.ops.misc.FrozenBatchNorm2d)
    extra = LastLevelP6P7(trunk.fc.in_features if detector == "retinanet" else 256, 256)
    backbone = _resnet_fpn_extractor(trunk, 5 - FROZEN_STAGES, returned_layers=[2, 3, 4], extra_blocks=extra)
    model = {"fcos": FCOS, "retinanet": RetinaNet}[detector](backbone, NUM_CLASSES, **LIMITS)
    # its own switch, _skip_resize, is ignored in evaluation: images would be resized to 800 px there
    model.transform.resize = lambda image, target=None: (image, target)
    model.to(setting.target)
    if channels_last:
        precision.prepare(model, configuration(f"{detector}_r50", setting).run)
    return model


def our_step(name: str, setting: Setting, images: list[Tensor], targets: list[dict]) -> Contestant:
    model, config = our_model(name, setting)
    stepper = Stepper(model.train(), config, 1000, setting.target)
    stepper.connect()
    targets = [target | {"image_id": k} for k, target in enumerate(targets)]
    iteration = iter(range(2**62))
    return Contestant(model, lambda: stepper.step(next(iteration), images, targets, len(images)))


def peer_step(
    vision, detector: str, setting: Setting, images: list[Tensor], targets: list[dict], *, channels_last: bool = True
) -> Contestant:
    model = peer_model(vision, detector, setting, channels_last=channels_last).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-6, momentum=0.9, weight_decay=1e-4)
    # its columns are the classes 0 ... 79
    targets = [{"boxes": t["boxes"].to(setting.target), "labels": t["labels"].to(setting.target) - 1} for t in targets]

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with precision.autocast(setting.target, setting.precision):
            loss = sum(model(images, targets).values())
        loss.backward()
        optimizer.step()

    return Contestant(model, run)


def in_precision(run: Callable, setting: Setting) -> Callable:
    def cast():
        with precision.autocast(setting.target, setting.precision):
            return run()

    return cast


def undecided(model: nn.Module) -> nn.Module:
    """All class scores 0.5: as many candidates as there can be."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and name.rsplit(".", 1)[-1] == "cls_logits":
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return model


def detection(model: nn.Module, setting: Setting, images: list[Tensor]) -> Contestant:
    model = undecided(model).eval()
    return Contestant(model, in_precision(torch.inference_mode()(lambda: model(images)), setting))


def times(contestants: dict[str, Contestant], setting: Setting) -> dict[str, Turns]:
    return take_turns({name: c.run for name, c in contestants.items()}, setting.rounds, setting.synchronize)


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
        steps[CONTIGUOUS] = peer_step(vision, detector, setting, images, targets, channels_last=False)
    result.trainable = same_parameters(detector, steps)
    result.inputs["training"] = same_inputs(steps)
    result.training = times(steps, setting)
    steps.clear()

    criteria = {}
    for suffix, name in METHODS.items():
        model, _ = our_model(f"{detector}_r50{suffix}", setting)
        with precision.autocast(setting.target, setting.precision):
            criteria[name] = in_precision(criterion(model.train(), images, targets), setting)
    result.criterion = take_turns(criteria, 2 * setting.rounds, setting.synchronize)
    criteria.clear()

    runs = {METHODS[m]: detection(our_model(f"{detector}_r50{m}", setting)[0], setting, images) for m in ("", "_mlc")}
    if vision is not None:
        runs[TORCHVISION] = detection(peer_model(vision, detector, setting), setting, images)
    result.inputs["inference"] = same_inputs(runs)
    result.inference = times(runs, setting)
    result.nms_seconds = seconds_of_nms(runs["+MLC"].run, setting)
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
    record["trainable_parameters"] = measured.trainable
    record["backbone_inputs"] = {part: str(seen) for part, seen in measured.inputs.items()}
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
    lines.append("")
    for detector, measured in results.items():
        if not isinstance(measured, str):
            counts = [f"{name} {sum(parts.values()):,}" for name, parts in measured.trainable.items()]
            inputs = [f"{part} {seen}" for part, seen in measured.inputs.items()]
            lines += [f"{detector}: trainable parameters: {', '.join(counts)}. Backbones: {'; '.join(inputs)}.", ""]
    return "\n".join([*lines, *(table(verdicts) if verdicts else [TRIAL])]) + "\n"


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
    parser.add_argument("--precision", choices=["fp32", "bf16"], help="default: bf16 on CUDA, fp32 on CPU")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    full = arguments.short_side == Setting.height
    height, width = (Setting.height, Setting.width) if full else image_size(arguments.short_side)
    setting = Setting(
        device=arguments.device,
        precision=arguments.precision or ("bf16" if arguments.device == "cuda" else "fp32"),
        height=height,
        width=width,
        images=arguments.batch_size,
        rounds=arguments.rounds,
    )
    record, text, complete = run(setting, trial=arguments.device == "cpu" or not full)
    print(text)
    write_record(arguments, record, text)
    return 0 if complete else 1


if __name__ == "__main__":
    raise SystemExit(main())
