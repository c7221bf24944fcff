"""FCOS as a model: MMDetection's losses, torchvision's interface, awkward batches."""

import pytest
import torch
from golden import load_golden
from torch import nn

from mlc_ext import MLCConfig
from mlc_ext.detectors.models.backbones.base import IMAGENET_RGB
from mlc_ext.detectors.models.fcos import FCOS
from mlc_ext.detectors.models.postprocess import Postprocessor

BASELINE = MLCConfig(ml=False, iur=False)


class Pooling(nn.Module):
    """The least a backbone can be: the image averaged over cells of 8, 16 and 32 pixels."""

    out_channels, strides, normalization = (3, 3, 3), (8, 16, 32), IMAGENET_RGB

    def forward(self, images):
        return [nn.functional.avg_pool2d(images, stride) for stride in self.strides]


def make_model(num_classes=3, seed=0, backbone="resnet18", **options):
    torch.manual_seed(seed)
    settings = {"fpn_channels": 32, "num_convs": 1} | options
    return FCOS(num_classes, backbone=backbone, **settings)


def make_confident(model):
    """Untrained heads score 0.01 everywhere; these scatter, and regress some pixels."""
    for name in ("cls_logits", "iou_logits", "bbox_ctrness"):
        if hasattr(model.head, name):
            layer = getattr(model.head, name)
            nn.init.normal_(layer.weight, std=0.3)
            nn.init.zeros_(layer.bias)
    nn.init.constant_(model.head.bbox_regression.bias, 2.5)
    nn.init.normal_(model.head.bbox_regression.weight, std=0.05)
    return model


def random_images(*sizes, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.rand(3, h, w, generator=g) for h, w in sizes]


def target(boxes, labels=None, crowd=None):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.ones(len(boxes), dtype=torch.int64) if labels is None else torch.tensor(labels)
    return {"boxes": boxes, "labels": labels} | ({} if crowd is None else {"iscrowd": torch.tensor(crowd)})


IMAGES = random_images((64, 96), (96, 64))
TARGETS = [target([(4, 4, 60, 50), (30, 20, 90, 60)], [1, 3]), target([(8, 8, 40, 90)], [2])]


def golden_model(golden, **options):
    return FCOS(int(golden["num_classes"]), backbone=Pooling(), fpn_channels=32, num_convs=1, **options)


def golden_outputs(golden):
    """MMDetection's maps in this project's layout, and (H, W) of each level."""
    names = {"cls_logits": "cls", "bbox_regression": "reg", "bbox_ctrness": "ctr"}
    outputs = {
        ours: torch.cat([golden[f"{theirs}_{level}"].flatten(2).transpose(1, 2) for level in range(5)], dim=1)
        for ours, theirs in names.items()
    }
    return outputs, [tuple(golden[f"cls_{level}"].shape[-2:]) for level in range(5)]


def golden_targets(golden):
    boxes = [golden[f"gt_boxes_{i}"] for i in range(2)]
    return [{"boxes": b, "labels": golden[f"gt_labels_{i}"] + 1, "crowd": b[:0]} for i, b in enumerate(boxes)]


def test_golden_losses():
    for golden in load_golden("fcos"):
        outputs, sizes = golden_outputs(golden)
        model = golden_model(golden, centerness=True, mlc=BASELINE)
        found = model.losses(outputs, sizes, golden_targets(golden))
        expected = {"classification": "loss_cls", "bbox_regression": "loss_box", "bbox_ctrness": "loss_centerness"}
        assert set(found) == set(expected)
        for ours, theirs in expected.items():
            assert found[ours].item() == pytest.approx(golden[theirs].item(), rel=1e-5), ours


def test_without_centerness_the_box_loss_is_a_plain_mean():
    golden = load_golden("fcos")[0]
    outputs, sizes = golden_outputs(golden)
    model = golden_model(golden, mlc=BASELINE)
    targets = golden_targets(golden)
    found = model.losses(outputs, sizes, targets)
    assert set(found) == {"classification", "bbox_regression"}
    points = torch.cat(model.priors(sizes, outputs["bbox_regression"]))
    assignment = model.assigner(model.priors(sizes, points), targets)
    positive = assignment.labels == 1
    boxes = model.decode(outputs, points).flatten(0, 1)[positive]
    gts = torch.cat([t["boxes"] for t in targets])[assignment.candidate_gt[positive]]
    low, high = torch.maximum(boxes[:, :2], gts[:, :2]), torch.minimum(boxes[:, 2:], gts[:, 2:])
    inter = (high - low).clamp(min=0).prod(1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (gts[:, 2:] - gts[:, :2]).prod(1) - inter
    expected = -(inter / union).clamp(min=1e-6).log().mean()
    torch.testing.assert_close(found["bbox_regression"], expected, rtol=1e-5, atol=0)


def test_golden_detections():
    for golden in load_golden("fcos"):
        outputs, sizes = golden_outputs(golden)
        size = tuple(golden["image_size"].tolist())
        model = golden_model(golden, centerness=True, mlc=BASELINE)
        for i, found in enumerate(model.detections(outputs, sizes, [size] * 2)):
            assert torch.equal(found["labels"] - 1, golden[f"det_labels_{i}"])
            torch.testing.assert_close(found["boxes"], golden[f"det_boxes_{i}"], rtol=1e-6, atol=1e-4)
            torch.testing.assert_close(found["scores"], golden[f"det_scores_{i}"], rtol=0, atol=1e-6)


def test_centerness_weights_without_the_layer():
    """FCOS-'s switch: the box loss of FCOS with centerness, and no more."""
    golden = load_golden("fcos")[0]
    outputs, sizes = golden_outputs(golden)
    targets = golden_targets(golden)
    weighted = golden_model(golden, mlc=BASELINE, centerness_weights=True).losses(outputs, sizes, targets)
    assert set(weighted) == {"classification", "bbox_regression"}
    assert weighted["bbox_regression"].item() == pytest.approx(golden["loss_box"].item(), rel=1e-5)
    plain = golden_model(golden, mlc=BASELINE, centerness=True, centerness_weights=False)
    found = plain.losses(outputs, sizes, targets)
    expected = golden_model(golden, mlc=BASELINE).losses(outputs, sizes, targets)["bbox_regression"]
    assert found["bbox_regression"] == expected and found["bbox_ctrness"] > 0


def test_v1_divides_by_positives_and_images():
    golden = load_golden("fcos")[0]
    outputs, sizes = golden_outputs(golden)
    targets = golden_targets(golden)
    model = golden_model(golden, mlc=BASELINE, mmdet1=True)
    found = model.losses(outputs, sizes, targets)
    positive = (model.assign(model.priors(sizes, outputs["cls_logits"]), targets).labels == 1).sum().item()
    expected = golden["loss_cls"].item() * positive / (positive + 2)
    assert found["classification"].item() == pytest.approx(expected, rel=1e-5)
    # by width * height 0.5 x 9 is smaller than 2.2 x 2.2, by (width + 1) * (height + 1) larger
    boxes = torch.tensor([[7.75, 0.0, 8.25, 9.0], [6.9, 2.9, 9.1, 5.1]])
    points = [torch.tensor([[8.0, 4.0]])] + [torch.zeros(0, 2)] * 4
    image = [{"boxes": boxes, "labels": torch.tensor([1, 1]), "crowd": boxes[:0]}]
    for mmdet1, smaller in ((False, 0), (True, 1)):
        assigner = golden_model(golden, mlc=BASELINE, mmdet1=mmdet1).assigner
        assert assigner(points, image).candidate_gt.tolist() == [smaller]


@pytest.mark.parametrize("centerness", [False, True])
@pytest.mark.parametrize("ml", [False, True])
@pytest.mark.parametrize("iur", [False, True])
@pytest.mark.parametrize("alignment", [0.0, 0.5])
def test_losses_and_layers_of_every_variant(centerness, ml, iur, alignment):
    mlc = MLCConfig(ml=ml, iur=iur, alignment=alignment, start_epoch=0)
    model = make_model(centerness=centerness, mlc=mlc)
    losses = model(IMAGES, TARGETS)
    optional = {"bbox_ctrness": centerness, "iou_rescoring": iur, "prediction_alignment": alignment > 0}
    assert set(losses) == {"classification", "bbox_regression"} | {name for name, on in optional.items() if on}
    assert all(loss.shape == () and loss.isfinite() and loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    keys = " ".join(model.state_dict())
    assert ("iou_logits" in keys) == iur and ("bbox_ctrness" in keys) == centerness


@pytest.mark.parametrize(("iur", "layer"), [(True, "iou_logits"), (False, "bbox_ctrness")])
def test_the_score_is_class_score_times_predicted_iou_else_centerness(iur, layer):
    model = make_confident(make_model(centerness=True, mlc=MLCConfig(iur=iur, start_epoch=0))).eval()
    detections, predictions = model.detect(IMAGES, with_predictions=True)
    with torch.no_grad():
        outputs, _, _ = model.head_outputs(IMAGES)
    for i, (found, dense) in enumerate(zip(detections, predictions, strict=True)):
        torch.testing.assert_close(dense["raw_scores"], outputs["cls_logits"][i].sigmoid())
        torch.testing.assert_close(dense["scores"], dense["raw_scores"] * outputs[layer][i].sigmoid())
        assert len(found["scores"]) > 0
        for box, label, score in zip(found["boxes"], found["labels"], found["scores"], strict=True):
            # each detection is one of the dense predictions, raw score above the threshold
            same = (dense["boxes"] - box).abs().amax(1) < 1e-4
            same &= (dense["scores"][:, label - 1] - score).abs() < 1e-6
            assert (dense["raw_scores"][same, label - 1] > 0.05).any()
    assert model.detect(IMAGES)[1] == []


def test_torchvisions_interface():
    model = make_confident(make_model())
    with pytest.raises(ValueError, match="FCOS: targets must be given in training"):
        model(IMAGES)
    model.eval()
    detections = model(IMAGES)
    assert isinstance(detections, list) and len(detections) == 2
    for image, found in zip(IMAGES, detections, strict=True):
        assert set(found) == {"boxes", "labels", "scores"}
        n = len(found["scores"])
        assert 0 < n <= 100 and found["boxes"].shape == (n, 4) and found["labels"].shape == (n,)
        assert found["labels"].dtype == torch.int64 and set(found["labels"].tolist()) <= {1, 2, 3}
        assert (found["scores"].diff() <= 0).all() and (found["boxes"][:, 2:] >= found["boxes"][:, :2]).all()
        height, width = image.shape[-2:]
        assert (found["boxes"] >= 0).all() and (found["boxes"] <= torch.tensor([width, height] * 2)).all()
    for again, found in zip(model(IMAGES), detections, strict=True):  # deterministic
        assert all(torch.equal(again[key], found[key]) for key in found)


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        (TARGETS[:1], ValueError, "targets: 1 for 2 images"),
        ([TARGETS[0], {**TARGETS[1], "boxes": torch.zeros(4)}], ValueError, r"targets\[1\]: boxes must have shape"),
        ([TARGETS[0], {**TARGETS[1], "labels": torch.ones(2).long()}], ValueError, r"\[1\]: \(2,\) labels for 1 boxes"),
        ([{**TARGETS[0], "labels": torch.ones(2)}, TARGETS[1]], TypeError, r"targets\[0\]: labels must be int64, got"),
        ([TARGETS[0], target([(0, 0, 9, 9)], [0])], ValueError, r"targets\[1\]: labels must be in 1..3, got 0"),
        ([TARGETS[0], target([(0, 0, 9, 9)], [4])], ValueError, r"targets\[1\]: labels must be in 1..3, got 4"),
        ([target([(0, 0, 9, 9), (5, 0, 4, 9)]), TARGETS[1]], ValueError, r"\[0\]: .* got \[5.0, 0.0, 4.0, 9.0\]"),
        ([target([(0, 0, float("nan"), 9)]), TARGETS[1]], ValueError, r"targets\[0\]: boxes must be finite"),
    ],
)  # fmt: skip
def test_bad_targets_are_named(targets, error, message):
    with pytest.raises(error, match=message):
        make_model(backbone=Pooling())(IMAGES, targets)


def test_bytes_are_floats_times_255():
    model = make_confident(make_model()).eval()
    images = [(image * 255).round().byte() for image in IMAGES]
    for found, expected in zip(model(images), model([i.float() / 255 for i in images]), strict=True):
        assert len(found["scores"]) > 0
        for key in found:
            torch.testing.assert_close(found[key], expected[key])


@pytest.mark.parametrize("ml", [False, True])
@pytest.mark.parametrize("centerness", [False, True])
@pytest.mark.parametrize(
    "targets",
    [
        [target([]), target([])],
        [TARGETS[0], target([])],
        [target([(0, 0, 60, 60), (5, 5, 50, 50)], crowd=[True, True])] * 2,
        [target([(10, 10, 11, 11), (12, 12, 13, 13)])] * 2,
        [target([(10.2, 10.2, 10.2, 10.2)]), TARGETS[1]],
    ],
    ids=["no boxes", "one without boxes", "all crowd", "one pixel", "no area"],
)
def test_awkward_targets_train(targets, centerness, ml):
    model = make_model(centerness=centerness, mlc=MLCConfig(ml=ml, start_epoch=0, alignment=0.1))
    losses = model(IMAGES, targets)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert model.head.cls_logits.weight.grad.abs().sum() > 0  # background trains the classifier


def test_crowd_carries_no_loss():
    """Points in a crowd box are ignored: where it covers all points, nothing is left to train on."""
    model = make_model(backbone=Pooling(), mlc=BASELINE)
    everything = [target([(-1e4, -1e4, 1e4, 1e4)], crowd=[True])] * 2
    assert all(loss == 0 for loss in model(IMAGES, everything).values())
    uncrowded = [target([(0, 0, 60, 60)], crowd=[False])] * 2
    assert all(loss > 0 for loss in model(IMAGES, uncrowded).values())


def test_images_of_any_size_in_one_batch():
    model = make_confident(make_model())
    images = random_images((33, 97), (1, 1), (64, 64))
    losses = model(images, [target([(2, 2, 30, 30)]), target([]), target([(5, 5, 60, 20)])])
    assert all(loss.isfinite() for loss in losses.values())
    for image, found in zip(images, model.eval()(images), strict=True):
        height, width = image.shape[-2:]
        assert (found["boxes"] <= torch.tensor([width, height] * 2)).all() and (found["boxes"] >= 0).all()


def test_mutual_labeling_starts_at_its_epoch():
    def losses_at(epoch, ml=True):
        model = make_model(mlc=MLCConfig(ml=ml, start_epoch=2.5, iur_start_epoch=0))
        model.set_epoch(epoch)
        assert model.mutual == (ml and epoch >= 2.5)
        return {name: loss.item() for name, loss in model(IMAGES, TARGETS).items()}

    baseline = losses_at(0, ml=False)
    assert losses_at(0) == losses_at(2.499) == baseline == losses_at(9, ml=False)
    mutual = losses_at(2.5)
    assert mutual == losses_at(9) and mutual["classification"] != baseline["classification"]


def test_candidates_of_the_paper_and_of_the_extension():
    for options, expected in (
        ({}, "positives"),
        ({"metric": "alignment"}, "all"),
        ({"candidates": "own_levels"}, "own_levels"),
        ({"metric": "alignment", "candidates": "positives"}, "positives"),
    ):
        assert make_model(mlc=MLCConfig(**options)).assigner.candidates == expected


@pytest.mark.parametrize("start", [None, 0, 5])
def test_the_iou_layer_ranks_once_it_is_trained(start):
    """By default from the switch on: before it an untrained layer must neither rank nor hold back a gradient."""
    model = make_confident(make_model(mlc=MLCConfig(start_epoch=2.5, iur_start_epoch=start)))
    begins = 2.5 if start is None else start
    for epoch in (0, 2.49, 2.5, 5):
        model.set_epoch(epoch)
        model.train().zero_grad()
        losses = model(IMAGES, TARGETS)
        assert (losses["iou_rescoring"] > 0) == (epoch >= begins) == model.rescoring
        losses["iou_rescoring"].backward()
        gradient = model.head.iou_logits.weight.grad
        assert gradient is not None and (gradient != 0).any() == (epoch >= begins)
        outputs, _, _ = model.eval().head_outputs(IMAGES)
        assert (model.quality(outputs) is None) == (epoch < begins)
        raw, ranked = (model.detect(IMAGES, with_predictions=True)[1][0][key] for key in ("raw_scores", "scores"))
        assert torch.equal(raw, ranked) == (epoch < begins)


def test_iou_nms_waits_for_the_iou_layer():
    def found(nms, epoch):
        torch.manual_seed(0)
        model = make_confident(make_model(mlc=MLCConfig(start_epoch=1), postprocessor=Postprocessor(nms=nms))).eval()
        model.set_epoch(epoch)
        return [d["boxes"] for d in model(IMAGES)]

    for a, b in zip(found("iou", 0), found("rescored", 0), strict=True):
        assert torch.equal(a, b)
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(found("iou", 1), found("rescored", 1),
                                                                          strict=True))  # fmt: skip


def make_symmetric(model):
    """Weights of a network that maps mirrored images to mirrored outputs, if its geometry is right.

    On even widths a stride-2 window of a 3x3 kernel covers cells 2x - 1, 2x, 2x + 1 and must weigh only the last two.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
            w = layer.weight.data
            if layer.stride == (2, 2):
                w[..., 0], w[..., 1] = 0, w[..., 2].clone()
            else:
                w.copy_((w + w.flip(-1)) / 2)
    regression = model.head.bbox_regression
    nn.init.normal_(regression.weight, std=0.05)
    regression.weight.data[2] = regression.weight.data[0].flip(-1)  # the right side mirrors the left one
    for row in (1, 3):
        w = regression.weight.data[row]
        w.copy_((w + w.flip(-1)) / 2)
    return model


def test_a_mirrored_image_gives_mirrored_detections():
    model = make_symmetric(make_confident(make_model(backbone=Pooling(), num_convs=2))).double().eval()
    width = 256
    image = random_images((128, width), seed=3)[0].double()
    detections, predictions = model.detect([image], with_predictions=True)
    mirrored, mirrored_predictions = model.detect([image.flip(-1)], with_predictions=True)
    # every location against its mirror image, level by level
    start = 0
    for stride in model.strides:
        h, w = 128 // stride, width // stride
        for key in ("boxes", "scores"):
            there, back = (p[0][key][start : start + h * w].view(h, w, -1) for p in (predictions, mirrored_predictions))
            if key == "boxes":
                back = torch.stack([width - back[..., 2], back[..., 1], width - back[..., 0], back[..., 3]], dim=-1)
            torch.testing.assert_close(back.flip(1), there, rtol=1e-4, atol=1e-3)
        start += h * w
    found, back = detections[0], mirrored[0]
    assert len(found["scores"]) == len(back["scores"]) > 20 and found["boxes"].std() > 5
    torch.testing.assert_close(back["scores"], found["scores"])
    x1, y1, x2, y2 = back["boxes"].unbind(1)
    unmirrored = torch.stack([width - x2, y1, width - x1, y2], dim=1)
    distance = (unmirrored[:, None] - found["boxes"]).abs().amax(-1)
    distance[back["labels"][:, None] != found["labels"]] = 1e9
    assert (distance.amin(1) < 1e-3).all() and (distance.amin(0) < 1e-3).all()


def test_state_dict_round_trip():
    first, second = (make_confident(make_model(seed=seed)).eval() for seed in (0, 1))
    before = second(IMAGES)
    second.load_state_dict(first.state_dict())
    for found, expected, other in zip(second(IMAGES), first(IMAGES), before, strict=True):
        assert all(torch.equal(found[key], expected[key]) for key in expected)
        assert found["scores"].shape != other["scores"].shape or not torch.equal(found["scores"], other["scores"])
