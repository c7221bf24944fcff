"""Every preset with its size, and what the method's parts add to a training step: python benchmarks/presets.py

Writes docs/presets.md. Parameters and multiply-adds (of backbone, pyramid and head) are counted for one image of
800 x 1333 and 80 classes, without running anything. Steps are timed for the four methods of a detector in turns, so
that a busy moment hits all alike; the minimum counts. What mutual labeling adds is far below the noise of a step, so
the criterion is timed alone too: forward from the head's outputs and backward to them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from _harness import ROOT, THREADS, Settings, facts
from _steps import (
    BOXES_PER_IMAGE,
    NUM_CLASSES,
    add_batch_arguments,
    bare,
    batch,
    criterion,
    image_size,
    take_turns,
)
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mlc_ext.detectors.config.overrides import override
from mlc_ext.detectors.config.presets import METHODS, PRESETS, preset
from mlc_ext.detectors.engine import precision
from mlc_ext.detectors.models.build import build_model
from mlc_ext.detectors.models.dense_detector import DenseDetector

HEIGHT, WIDTH = 800, 1344
"""800 x 1333 as the network sees it, padded to multiples of 32."""
TIMED = {"fcos_minus": "FCOS-", "fcos": "FCOS", "retinanet": "RetinaNet", "rpn": "RPN"}


def size_of(name: str) -> tuple[int, int]:
    """(parameters, multiply-adds of one image) of a preset."""
    with torch.device("meta"):
        model = build_model(bare(preset(name)), NUM_CLASSES)
        with FlopCounterMode(display=False) as counter:
            model.head(model.fpn(model.backbone(torch.empty(1, 3, HEIGHT, WIDTH))))
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2


def step(model: DenseDetector, images: list[Tensor], targets: list[dict[str, Tensor]]) -> Callable[[], None]:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-5, momentum=0.9)

    def run() -> None:
        optimizer.zero_grad()
        sum(model(images, targets).values()).backward()
        optimizer.step()

    return run


def overheads(prefix: str, *, short: int, size: int, rounds: int) -> dict[str, tuple[float, float]]:
    """{method: (step seconds, criterion seconds)} of a detector's four presets, mutual labeling on."""
    images, targets = batch(*image_size(short), size)
    steps, criteria = {}, {}
    for suffix in METHODS:
        config = override(bare(preset(f"{prefix}_r50{suffix}")), "mlc.start_epoch", 0.0)
        torch.manual_seed(0)
        model = build_model(config, NUM_CLASSES).train()
        precision.prepare(model, config.run)
        steps[suffix], criteria[suffix] = step(model, images, targets), criterion(model, images, targets)
    in_step, alone = take_turns(steps, rounds), take_turns(criteria, 4 * rounds)
    return {suffix: (in_step[suffix].least, alone[suffix].least) for suffix in METHODS}


def size_table() -> list[str]:
    lines = ["| preset | parameters (M) | multiply-adds (G) |", "|---|--:|--:|"]
    for name in PRESETS:
        if preset(name).model.assigner is not None:
            continue  # of the size of the preset without
        parameters, operations = size_of(name)
        lines.append(f"| `{name}` | {parameters / 1e6:.2f} | {operations / 1e9:.1f} |")
    return lines


def overhead_table(arguments: argparse.Namespace) -> list[str]:
    lines = [
        "| detector | step (s) | +ML | +IUR | +MLC | criterion (ms) | +ML | +IUR | +MLC | ML's share of the step |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for prefix, title in TIMED.items():
        found = overheads(prefix, short=arguments.short_side, size=arguments.batch_size, rounds=arguments.rounds)
        base_step, base_criterion = found[""]
        ratios = [f"{found[suffix][0] / base_step:.3f}x" for suffix in ("_ml", "_iur", "_mlc")]
        added = [1e3 * (found[suffix][1] - base_criterion) for suffix in ("_ml", "_iur", "_mlc")]
        cells = [title, f"{base_step:.2f}", *ratios, f"{1e3 * base_criterion:.1f}", *(f"{ms:+.1f}" for ms in added)]
        lines.append(f"| {' | '.join(cells)} | {100 * added[0] / (1e3 * base_step):+.2f} % |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Size of every preset; cost of the method's parts.")
    add_batch_arguments(parser)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "presets.md")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    circumstances = ", ".join(f"{name} {value}" for name, value in facts(Settings()).items())
    height, width = image_size(arguments.short_side)
    text = [
        "# The presets",
        "",
        f"Made by `python benchmarks/presets.py`: {circumstances}.",
        "",
        "## Size",
        "",
        f"With {NUM_CLASSES} classes; multiply-adds of backbone, pyramid and head for one image of 800 x 1333. "
        "Another rule of label assignment changes neither: `fcos_r50_atss_mlc` has the size of `fcos_r50_mlc`.",
        "",
        *size_table(),
        "",
        "## What the method's parts add to a training step",
        "",
        f"Batch {arguments.batch_size}, {height} x {width} pixels, {BOXES_PER_IMAGE} boxes an image, "
        f"{THREADS} CPU threads, mutual labeling on. Minima of {arguments.rounds} turns; a step is forward, backward "
        "and SGD. The criterion is timed alone as well (from the head's outputs and back to them), since what mutual "
        "labeling adds is smaller than a step's noise.",
        "",
        *overhead_table(arguments),
        "",
    ]
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text("\n".join(text))


if __name__ == "__main__":
    main()
