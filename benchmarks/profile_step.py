"""Where a training step's time goes: python benchmarks/profile_step.py [--device cuda] [preset ...]

Writes docs/profile.md: torch.profiler's account of a step of each preset, by parts and by operators, mutual labeling
on. Images and boxes are random and already in memory, so the data pipeline is not in it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from _harness import ROOT, THREADS, Settings, facts
from _steps import NUM_CLASSES, add_batch_arguments, bare, batch, image_size
from torch.profiler import ProfilerActivity, profile, record_function

from mlc_ext.detectors.config.overrides import override
from mlc_ext.detectors.config.presets import preset
from mlc_ext.detectors.engine import precision
from mlc_ext.detectors.engine.train_step import Stepper
from mlc_ext.detectors.models import dense_detector
from mlc_ext.detectors.models.build import build_model

DEFAULT = ("fcos_minus_r50_mlc", "retinanet_r50_mlc", "rpn_r50_mlc")
MARK = "part: "


def marked(name: str, function: Callable) -> Callable:
    def run(*args, **kwargs):
        with record_function(MARK + name):
            return function(*args, **kwargs)

    return run


def mark_parts(model: dense_detector.DenseDetector, stepper: Stepper) -> None:
    """Names the parts of a step; those that lie in others are indented."""
    for name in ("backbone", "fpn", "head"):
        module = getattr(model, name)
        module.forward = marked(name, module.forward)
    model.losses = marked("criterion", model.losses)
    model.assign = marked("criterion / assignment of the priors", model.assign)
    model.task_losses = marked("criterion / the detector's losses", model.task_losses)
    stepper.optimizer.step = marked("optimizer", stepper.optimizer.step)


def profiled(name: str, arguments: argparse.Namespace) -> tuple[float, list[str]]:
    """-> (seconds a step, lines of markdown)."""
    device = torch.device(arguments.device)
    config = override(bare(preset(name)), "mlc.start_epoch", 0.0)
    images, targets = batch(*image_size(arguments.short_side), arguments.batch_size)
    targets = [target | {"image_id": k} for k, target in enumerate(targets)]
    model = build_model(config, NUM_CLASSES).to(device).train()
    precision.prepare(model, config.run)
    stepper = Stepper(model, config, 1000, device)
    stepper.connect()
    stepper.step(0, images, targets, len(images))
    mark_parts(model, stepper)
    original = {key: getattr(dense_detector, key) for key in ("task_targets", "mlc_losses")}
    dense_detector.task_targets = marked("criterion / scores, IoUs and labels of both tasks", original["task_targets"])
    dense_detector.mlc_losses = marked("criterion / IoU rescoring", original["mlc_losses"])
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with profile(activities=activities) as profiler:
        for step in range(1, arguments.steps + 1):
            with record_function(MARK + "step"):
                stepper.step(step, images, targets, len(images))
                if device.type == "cuda":
                    torch.cuda.synchronize()
    for key, function in original.items():
        setattr(dense_detector, key, function)
    events = profiler.key_averages()
    parts = {e.key.removeprefix(MARK): e.cpu_time_total / arguments.steps for e in events if e.key.startswith(MARK)}
    whole = parts.pop("step")
    outer = sum(time for part, time in parts.items() if "/" not in part)
    parts["backward pass and the rest"] = whole - outer
    lines = ["| part | ms | share |", "|---|--:|--:|"]
    for part, time in sorted(parts.items(), key=lambda item: (item[0] == "backward pass and the rest", item[0])):
        title = part if "/" not in part else f"&nbsp;&nbsp;{part.partition(' / ')[2]}"
        lines.append(f"| {title} | {time / 1e3:.1f} | {100 * time / whole:.1f} % |")
    operators = [e for e in events if e.key.startswith(("aten::", "mlc_ext::"))]
    attribute = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    operators.sort(key=lambda e: -getattr(e, attribute))
    ours = [e for e in operators if e.key.startswith("mlc_ext::")]
    lines += ["", "| operator, its own time | ms | calls |", "|---|--:|--:|"]
    for e in [*operators[:8], *(e for e in ours if e not in operators[:8])]:
        milliseconds = getattr(e, attribute) / arguments.steps / 1e3
        lines.append(f"| `{e.key}` | {milliseconds:.2f} | {e.count / arguments.steps:.0f} |")
    return whole / 1e6, lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Where a training step's time goes.")
    parser.add_argument("presets", nargs="*", metavar="preset", help=f"default: {', '.join(DEFAULT)}")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    add_batch_arguments(parser)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "profile.md")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    circumstances = ", ".join(f"{key} {value}" for key, value in facts(Settings(arguments.device)).items())
    text = [
        "# Where a training step's time goes",
        "",
        f"Made by `python benchmarks/profile_step.py`, with torch.profiler: {circumstances}.",
        "",
        f"Batch {arguments.batch_size}, short side {arguments.short_side}, mutual labeling on, mean of "
        f"{arguments.steps} steps; the data pipeline is not in it.",
    ]
    for name in arguments.presets or DEFAULT:
        seconds, lines = profiled(name, arguments)
        text += ["", f"## {name}: {seconds:.2f} s a step", "", *lines]
        print(f"{name}: {seconds:.2f} s", flush=True)
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
