"""Draws README's picture, docs/mutual_labels.png, from a detector that it trains: python tools/readme_picture.py

The detector is the `demo` preset's FCOS- with MLC, trained for 10 epochs (5 minutes on one CPU thread), or
--run DIR, the folder of a finished run. The object is the one of the validation images for which ranking by score x
predicted IoU raises the IoU of the kept box most, among objects with at least MIN_CANDIDATES candidates. The upper row
shows the labels of its candidate priors, the lower row what NMS keeps of the detector's boxes.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
from dataclasses import dataclass
from pathlib import Path

import PIL.Image
import torch
from torch import Tensor

import mlc_ext
from mlc_ext.detectors.config.presets import preset, with_epochs
from mlc_ext.detectors.engine.trainer import Trainer
from mlc_ext.detectors.models.dense_detector import DenseDetector
from mlc_ext.detectors.runs.load import load_for_evaluation
from mlc_ext.detectors.visualization.views import View, look

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "mutual_labels.png"
RUN = ROOT / "runs" / "readme_picture"

MIN_CANDIDATES = 20
MIN_SCORE = 0.05
"""Boxes of a lower score do not enter NMS, as in the detector."""
NMS_IOU = 0.5
SHOWN_BOXES = 25
"""Boxes drawn before NMS, the ones of the highest scores."""

GREEN, RED, YELLOW, ORANGE, BLUE, WHITE = "#22c55e", "#ff3b30", "#ffd60a", "#ff8c00", "#1e6bff", "white"

LABEL_TITLES = (
    ("Baseline labels", "the same for both tasks"),
    ("MLC: classification", "positive: a good box"),
    ("MLC: localization", "positive: a good score"),
)


@dataclass
class Example:
    """One object, its candidates' labels and its boxes before and after NMS."""

    image: Tensor
    """uint8 [3, H, W]."""
    gt_box: Tensor
    centers: Tensor
    """[n, 2] (x, y) of the candidate priors."""
    labels: dict[str, Tensor]
    """Of each panel of the upper row: [n] bool, positive or negative."""
    boxes: Tensor
    """[m, 4] the boxes of the object's class that overlap it, best score first."""
    kept: dict[str, tuple[Tensor, float]]
    """Of each ranking: the box of the object that NMS keeps, and its IoU with the object."""

    @property
    def gain(self) -> float:
        (_, before), (_, after) = self.kept.values()
        return after - before


def trained_run(folder: Path) -> Path:
    """Trains the demo preset into ``folder`` unless its checkpoint is there; returns the checkpoint."""
    checkpoint = folder / "checkpoint.pt"
    if not checkpoint.is_file():
        config = with_epochs(preset("demo"), 10)
        mlc = dataclasses.replace(config.mlc, candidates="positives")
        run = dataclasses.replace(config.run, out=str(folder), threads=1)
        Trainer(dataclasses.replace(config, mlc=mlc, run=run)).run()
    return checkpoint


@torch.no_grad()
def examples(model: DenseDetector, image: Tensor, target: dict[str, Tensor]) -> list[Example]:
    """The objects of one image for which both rankings keep a box."""
    baseline, mutual = (look(model, [image], [target], mutual=way)[0] for way in (False, True))
    outputs, feature_sizes, sizes = model.head_outputs([image])
    priors = torch.cat(model.priors(feature_sizes, outputs["bbox_regression"]))
    height, width = sizes[0]
    boxes = model.decode(outputs, priors)[0].clamp(min=0).minimum(torch.tensor([width, height] * 2))
    scores, quality = outputs["cls_logits"][0].sigmoid(), model.quality(outputs)[0]
    found = []
    for k, gt_box in enumerate(mutual.boxes):
        own, score = mutual.gt == k, scores[:, mutual.labels[k] - 1]
        candidates = (score > MIN_SCORE).nonzero()[:, 0]
        best = mlc_ext.box_iou(boxes[candidates], mutual.boxes).max(1)
        overlaps = (best.indices == k) & (best.values > 0.3)
        mine = candidates[overlaps]
        kept = {
            "by score": first_kept(boxes[candidates], score[candidates], None, overlaps, gt_box),
            "by score × IoU": first_kept(boxes[candidates], score[candidates], quality[candidates], overlaps, gt_box),
        }
        if own.sum() < MIN_CANDIDATES or None in kept.values():
            continue
        found.append(
            Example(
                image=image,
                gt_box=gt_box,
                centers=mutual.centers[own],
                labels=labels_of(baseline, mutual, own),
                boxes=boxes[mine[score[mine].argsort(descending=True)]][:SHOWN_BOXES],
                kept=kept,
            )
        )
    return found


def first_kept(
    boxes: Tensor, scores: Tensor, quality: Tensor | None, overlaps: Tensor, gt_box: Tensor
) -> tuple[Tensor, float] | None:
    """The best-ranked box after NMS among those that overlap the object, with its IoU; None where none is kept."""
    keep = mlc_ext.rescored_nms(boxes, scores, quality, None, NMS_IOU)
    keep = keep[overlaps[keep]]
    if not len(keep):
        return None
    box = boxes[keep[0]]
    return box, mlc_ext.box_iou(box[None], gt_box[None]).item()


def labels_of(baseline: View, mutual: View, own: Tensor) -> dict[str, Tensor]:
    return {
        "baseline": baseline.cls_positive[own],
        "classification": mutual.cls_positive[own],
        "localization": mutual.loc_positive[own],
    }


def draw(example: Example, path: Path) -> None:
    """Two rows of three panels: labels of the candidate priors, boxes before and after NMS."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(12, 8.4), dpi=100)
    figure.subplots_adjust(left=0.004, right=0.996, top=0.885, bottom=0.075, wspace=0.025, hspace=0.32)
    left, top, right, bottom = view_of(example)
    for axis in axes.flat:
        axis.imshow(example.image.permute(1, 2, 0).numpy(), interpolation="bicubic")
        axis.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
        box(axis, example.gt_box, WHITE, 2.5, linestyle=(0, (4, 3)))
    for axis, (title, below), positive in zip(axes[0], LABEL_TITLES, example.labels.values(), strict=True):
        name(axis, title, below)
        for mask, color in ((~positive, BLUE), (positive, ORANGE)):
            axis.scatter(*example.centers[mask].T.numpy(), s=170, color=color, edgecolor=WHITE, linewidth=1.2)
    name(axes[1, 0], "Boxes before NMS", f"the {len(example.boxes)} best scores")
    for each in example.boxes:
        box(axes[1, 0], each, YELLOW, 1.6, alpha=0.6)
    for axis, (ranking, (kept, iou)), color in zip(axes[1, 1:], example.kept.items(), (RED, GREEN), strict=True):
        name(axis, f"NMS {ranking}", f"keeps a box of IoU {iou:.2f}")
        box(axis, kept, color, 5)
    legend(figure)
    save(pyplot, figure, path)


def legend(figure) -> None:
    from matplotlib.lines import Line2D

    dot = {"marker": "o", "linestyle": "none", "markersize": 14, "markeredgecolor": WHITE}
    handles = [
        Line2D([], [], color=ORANGE, label="positive prior", **dot),
        Line2D([], [], color=BLUE, label="negative prior", **dot),
        Line2D([], [], color="gray", linewidth=2.5, linestyle=(0, (4, 3)), label="ground truth"),
    ]
    figure.legend(handles=handles, loc="lower center", ncols=3, frameon=False, fontsize=20, borderpad=0.1)


def name(axis, title: str, below: str) -> None:
    """The title of a panel, with a line of smaller letters under it."""
    axis.text(0.5, 1.145, title, transform=axis.transAxes, ha="center", fontsize=21, fontweight="bold")
    axis.text(0.5, 1.03, below, transform=axis.transAxes, ha="center", fontsize=18, color="#444444")


def view_of(example: Example) -> tuple[float, float, float, float]:
    """The 4:3 part around everything that is drawn: left, top, right, bottom."""
    shown = torch.cat([example.boxes, example.gt_box[None], example.centers.repeat(1, 2)])
    low, high = shown[:, :2].amin(0) - 3, shown[:, 2:].amax(0) + 3
    x, y = ((low + high) / 2).tolist()
    half = max((high - low)[0].item() / 2, (high - low)[1].item() / 2 * 4 / 3)
    return x - half, y - half * 3 / 4, x + half, y + half * 3 / 4


def save(pyplot, figure, path: Path) -> None:
    """Writes the figure as a PNG of a palette, a quarter of the bytes, and closes it."""
    image = io.BytesIO()
    figure.savefig(image)
    pyplot.close(figure)
    PIL.Image.open(image).convert("RGB").quantize(256).save(path, optimize=True)


def box(axis, corners: Tensor, color: str, width: float, **style) -> None:
    from matplotlib.patches import Rectangle

    x1, y1, x2, y2 = corners.tolist()
    axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=width, **style))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=RUN, help="folder of the run; trained if it has no checkpoint")
    parser.add_argument("--out", type=Path, default=PICTURE, help="the PNG")
    options = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_for_evaluation(trained_run(options.run), device="cpu")
    model = loaded.model.eval()
    found = []
    for index in range(len(loaded.dataset)):
        image, target = loaded.dataset[index]
        if len(target["boxes"]):
            found += examples(model, image, target)
    best = max(found, key=lambda example: example.gain)
    gains = torch.tensor([example.gain for example in found])
    print(f"{len(found)} objects, mean IoU gain {gains.mean():.3f}, the one drawn {best.gain:.3f}")
    draw(best, options.out)


if __name__ == "__main__":
    main()
