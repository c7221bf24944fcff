"""Every detector with every part of the method, as a whole: it learns, in bfloat16 too, and mirrors with its images."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn
from whole_models import BATCHES, DETECTORS, IMAGES, build

from mlc_ext import MLCConfig
from mlc_ext.detectors.config.overrides import override
from mlc_ext.detectors.config.presets import METHODS, preset
from mlc_ext.detectors.engine.trainer import Trainer

SHARED = Path(os.environ.get("MLC_SHARED_DIR", Path(__file__).resolve().parents[3] / "shared"))


@pytest.mark.parametrize(
    "detector", ["fcos-", *(pytest.param(name, marks=pytest.mark.slow) for name in DETECTORS if name != "fcos-")]
)
def test_two_hundred_steps_in_bfloat16(detector):
    """Mutual labeling from the hundredth step; in turn ordinary images, half of them empty, all, and all but none."""
    model = build(detector, mlc=MLCConfig.paper(detector, start_epoch=100, alignment=0.1))
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for step in range(200):
        model.set_epoch(step)
        with torch.autocast("cpu", torch.bfloat16):
            losses = model(IMAGES, BATCHES[step % 4])
        assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values()), (step, losses)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)  # no warm-up here
        optimizer.step()
    assert all(p.isfinite().all() for p in model.parameters()) and model.mutual
    assert all((p != old).any() for p, old in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("detector", DETECTORS)
def test_boxes_are_decoded_in_float32_under_autocast(detector):
    """From what the head gives, whatever type that has: the same boxes as in float64, to a thousandth of a pixel."""
    model = build(detector)
    nn.init.normal_(model.head.bbox_regression.weight, std=0.3)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        outputs, sizes, _ = model.head_outputs(IMAGES)
        priors = torch.cat(model.priors(sizes, outputs["bbox_regression"]))
        boxes = model.decode(outputs, priors)
    assert outputs["cls_logits"].dtype == torch.bfloat16 and boxes.dtype == torch.float32
    exact = model.decode({"bbox_regression": outputs["bbox_regression"].double()}, priors.double())
    torch.testing.assert_close(boxes.double(), exact, atol=1e-3, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("detector", DETECTORS)
def test_the_loss_falls(detector, method):
    """Forty steps on one batch; boxes and scores that both improve leave mutual labeling its positives."""
    mlc = MLCConfig.paper(detector, **METHODS[method], start_epoch=0)
    model = build(detector, mlc=mlc)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    totals = []
    for _ in range(40):
        losses = model(IMAGES, BATCHES[0])
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert sum(totals[-4:]) < 0.8 * sum(totals[:4]), totals


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("num_classes", [1, 365])
def test_few_and_many_classes_and_500_boxes(detector, num_classes):
    g = torch.Generator().manual_seed(0)
    corner = torch.rand(500, 2, generator=g) * 80
    boxes = torch.cat((corner, corner + 2 + torch.rand(500, 2, generator=g) * 40), dim=1)
    labels = torch.randint(1, num_classes + 1, (500,), generator=g)
    model = build(detector, num_classes)
    images = [torch.rand(3, 128, 128, generator=g)]
    losses = model(images, [{"boxes": boxes, "labels": labels}])
    sum(losses.values()).backward()
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    nn.init.constant_(model.head.cls_logits.bias, 0.0)
    nn.init.normal_(model.head.cls_logits.weight, std=0.3)
    found = model.eval()(images)[0]["labels"]
    assert len(found) > 0 and found.min() >= 1 and found.max() <= (1 if detector == "rpn" else num_classes)


def make_symmetric(model):
    """Weights of a network that maps mirrored images to mirrored outputs, if its geometry is right.

    On even widths a stride-2 window of a 3x3 kernel covers cells 2x - 1, 2x, 2x + 1 and must weigh only the last two.
    """
    nn.init.normal_(model.head.cls_logits.weight, std=0.3)
    nn.init.normal_(model.head.bbox_regression.weight)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            w = layer.weight.data
            if layer.stride == (2, 2):
                w[..., 0], w[..., 1] = 0, w[..., 2].clone()
            else:
                w.copy_((w + w.flip(-1)) / 2)
    shifts = model.head.bbox_regression.weight.data[0::4]  # dx: to the right is to the left in the mirror
    nn.init.normal_(shifts)
    shifts.copy_((shifts - shifts.flip(-1)) / 2)
    return model


@pytest.mark.parametrize("detector", ["retinanet", "rpn"])
def test_a_mirrored_image_gives_mirrored_boxes(detector):
    """With MMDetection 1.1's anchors, which lie symmetrically in the image; the others stand on the cells' left
    corners. (FCOS: tests/models/test_fcos.py.)"""
    model = make_symmetric(build(detector, mmdet1=True)).double().eval()
    height, width = 128, 256
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(3)).double()
    seen = []
    for picture in (image, image.flip(-1)):
        outputs, sizes, _ = model.head_outputs([picture])
        anchors = torch.cat(model.priors(sizes, picture))
        boxes = model.decode(outputs, anchors)[0]
        quality = model.quality(outputs)[0, :, None]
        seen.append((boxes, outputs["cls_logits"][0], quality, boxes - anchors))
    assert seen[0][3].std() > 1  # boxes have left their anchors
    start, a = 0, model.anchors.num_anchors
    for h, w in sizes if detector == "retinanet" else sizes[:-1]:  # RPN's P6 takes every other cell: the left ones
        here = slice(start, start + h * w * a)
        there, back = ([x[here].view(h, w, a, -1) for x in side[:3]] for side in seen)
        x1, y1, x2, y2 = back[0].unbind(-1)
        back[0] = torch.stack([width - 1 - x2, y1, width - 1 - x1, y2], dim=-1)
        for mirrored, original in zip(back, there, strict=True):
            torch.testing.assert_close(mirrored.flip(1), original, rtol=1e-4, atol=1e-3)
        start += h * w * a


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("detector", DETECTORS)
def test_learns_eight_images_by_heart(detector, method, tmp_path, monkeypatch):
    """Eight real images, from ImageNet weights; the classes of proposals do not count. The box loss falls by half; for
    an RPN with mutual labeling, where it counts ten times the boxes from the switch on and weights that grow with the
    scores, the IoUs rise instead: of the boxes it counts, so weighted, and of all candidates."""
    if not (SHARED / "data" / "coco_small").is_dir():
        pytest.skip(f"no {SHARED / 'data' / 'coco_small'} (set MLC_SHARED_DIR)")
    epochs = 100
    config = preset("demo")
    settings = {
        "model.detector": detector,
        "mlc.start_epoch": 12 / 19 * epochs,
        "mlc.alpha": MLCConfig.paper(detector).alpha,
        **{f"mlc.{key}": on for key, on in METHODS[method].items()},
        "data.data": str(SHARED / "data" / "coco_small"),
        "data.limit_train": 8,
        "data.val_is_train": True,
        "data.flip": 0.0,
        "data.short_side": 192,
        "data.long_side": 256,
        "schedule.epochs": epochs,
        "schedule.batch_size": 4,
        "schedule.weight_decay": 0.0,
        "schedule.warmup_iterations": 20,
        "run.device": "cpu",
        "run.out": str(tmp_path / "run"),
    }
    if detector == "rpn":
        settings["model.num_convs"] = 4  # its default: the head has one
    for name, value in settings.items():
        config = override(config, name, value)
    trainer = Trainer(config, progress=False)
    ious = recorded_ious(trainer.model, monkeypatch)
    metrics = trainer.run()
    steps = [entry for entry in trainer.metrics.entries if "loss" in entry]
    assert trainer.model.mutual == METHODS[method]["ml"] and len(trainer.val_set) == 8
    if detector == "rpn" and METHODS[method]["ml"]:
        mutual = torch.tensor(ious[True])
        first, last = mutual[:8].mean(0), mutual[-8:].mean(0)  # four epochs
        assert (last > first + 0.1).all() and last[0] > 0.7, (first, last)
    else:
        assert steps[-1]["bbox_regression"] < 0.5 * steps[0]["bbox_regression"]
    if detector == "rpn":
        assert metrics["AR@100"] >= 0.5, metrics
    else:
        assert metrics["AP50"] >= 0.9, metrics


def recorded_ious(model, monkeypatch) -> dict[bool, list[tuple[float, float]]]:
    """The mean IoUs of each step's boxes and gts, before (False) and after (True) the switch: weighted as in the box
    loss, and of all candidates."""
    recorded = {False: [], True: []}
    task_losses = model.task_losses

    def recording(outputs, priors, boxes, task, num_images):
        with torch.no_grad():
            weighted = (task.loc_weights * task.ious).sum() / task.loc_weights.sum()
            recorded[model.mutual].append((float(weighted), float(task.ious[task.matched_boxes.any(1)].mean())))
        return task_losses(outputs, priors, boxes, task, num_images)

    monkeypatch.setattr(model, "task_losses", recording)
    return recorded
