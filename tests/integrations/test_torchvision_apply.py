"""Converted torchvision detectors as modules: classes, checkpoints, copies, compilers and errors."""

import copy
import io
import pickle
import re
import warnings
from pathlib import Path

import pytest
import torch
from small_detectors import DETECTORS, assert_same_detections, batch, faster_rcnn, fcos, losses_of, retinanet
from torch.optim.swa_utils import AveragedModel
from torchvision.models.detection import FCOS, ssdlite320_mobilenet_v3_large
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead, RetinaNetRegressionHead
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from mlc_ext import MLCConfig
from mlc_ext.integrations.torchvision import apply_mlc, set_epoch

ADDED = {
    "fcos": [],
    "retinanet": [f"head.regression_head.iou_logits.{name}" for name in ("weight", "bias", "trained")],
    "faster_rcnn": [f"rpn.head.iou_logits.{name}" for name in ("weight", "bias", "trained")],
}


@pytest.fixture(params=DETECTORS)
def name(request):
    torch.manual_seed(3)
    return request.param


def build(name):
    """A detector that has detections with its first weights, and scores so different that none are equal at the limit
    of detections."""
    model = DETECTORS[name](**{"box_score_thresh" if name == "faster_rcnn" else "score_thresh": 0.005})
    for layer, parameter in model.named_parameters():
        if layer.endswith("cls_logits.weight"):
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def trained(name, **options):
    """A converted detector after a step with everything on."""
    model = apply_mlc(build(name), **options)
    set_epoch(model, 12)
    sum(losses_of(model).values()).backward()
    torch.optim.SGD(model.parameters(), 1e-3).step()
    model.zero_grad()
    return model


@torch.no_grad()
def detect(model):
    return model.eval()(batch()[0])


def assert_equal_detections(expected, results):
    for one, other in zip(expected, results, strict=True):
        assert len(one["boxes"]) > 0
        assert_same_detections(one, other)


def test_classes_and_state_dict_stay(name):
    plain = DETECTORS[name]()
    model = copy.deepcopy(plain)
    assert apply_mlc(model) is model
    assert isinstance(model, type(plain))
    for part, kind in {
        "fcos": {"head": FCOSHead},
        "retinanet": {"head": RetinaNetHead, "head.regression_head": RetinaNetRegressionHead},
        "faster_rcnn": {"rpn": RegionProposalNetwork, "rpn.head": RPNHead},
    }[name].items():
        assert isinstance(model.get_submodule(part), kind)
    assert set(model.state_dict()) == {*plain.state_dict(), *ADDED[name]}


def test_a_plain_checkpoint_loads_and_resets_the_iou_layer(name):
    plain, model = build(name), trained(name)
    model.load_state_dict(plain.state_dict(), strict=True)
    for key, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[key], value)
    if ADDED[name]:
        weight, bias, flag = (model.state_dict()[key] for key in ADDED[name])
        assert 0.005 < weight.std() < 0.02 and bias.eq(0).all() and flag == 0
    assert_equal_detections(detect(plain), detect(model))


def test_a_checkpoint_of_the_method_round_trips(name):
    model, other = trained(name), apply_mlc(build(name))
    other.load_state_dict(model.state_dict())
    assert_equal_detections(detect(model), detect(other))
    if ADDED[name]:
        state = model.state_dict()
        assert state[ADDED[name][2]] == 1
        del state[ADDED[name][0]]
        with pytest.raises(RuntimeError, match="Missing key.*iou_logits.weight"):
            other.load_state_dict(state)


def test_fcos_checkpoint_loads_into_plain_fcos():
    plain = fcos()
    plain.load_state_dict(trained("fcos").state_dict(), strict=True)


@pytest.mark.parametrize("copied", ["deepcopy", "pickle", "torch.save"])
def test_copies(name, copied):
    model = trained(name)
    if copied == "deepcopy":
        other = copy.deepcopy(model)
    elif copied == "pickle":
        other = pickle.loads(pickle.dumps(model))
    else:
        torch.save(model, file := io.BytesIO())
        file.seek(0)
        other = torch.load(file, weights_only=False)
    assert [type(m) for m in other.modules()] == [type(m) for m in model.modules()]
    assert_equal_detections(detect(model), detect(other))
    expected = losses_of(model)
    torch.testing.assert_close(losses_of(other), expected)
    set_epoch(other, 0)  # the copy's state is its own, and one for all of its parts
    assert losses_of(other) != expected
    torch.testing.assert_close(losses_of(model), expected)


@pytest.mark.parametrize("use_buffers", [False, True])
def test_averaged_model(name, use_buffers):
    model = apply_mlc(build(name))
    averaged = AveragedModel(model, use_buffers=use_buffers)
    for epoch in (11, 12):
        set_epoch(model, epoch)
        sum(losses_of(model).values()).backward()
        averaged.update_parameters(model)
    set_epoch(averaged, 12)
    assert_equal_detections(detect(model), detect(averaged.module))  # no step was taken


def test_compile(name):
    model = trained(name)
    expected = losses_of(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    set_epoch(compiled, 12)
    torch.testing.assert_close(losses_of(compiled), expected, rtol=1e-4, atol=1e-5)
    assert_equal_detections(detect(model), detect(compiled))


def test_epochs_do_not_recompile(name):
    """Only the start of mutual labeling does."""
    model = apply_mlc(DETECTORS[name]()).train()
    images, targets = batch()
    arguments = images, targets
    if name == "faster_rcnn":  # the RPN alone: the RoI heads compile again for another number of proposals
        images, targets = model.transform(images, targets)
        with torch.no_grad():
            arguments = images, model.backbone(images.tensors), targets
        model = model.rpn
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(model, backend="eager")
    frames = []
    for epoch in (0, 1, 2.5, 12, 13, 14):
        set_epoch(compiled, epoch)
        compiled(*arguments)
        frames.append(torch._dynamo.utils.counters["frames"]["ok"])
    assert 0 < frames[0] == frames[1] == frames[2] < frames[3] == frames[4] == frames[5]


@pytest.mark.filterwarnings("ignore:.*always returns a .Losses, Detections. tuple:UserWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("options", [{}, {"iur": False}], ids=["iur", "ml"])
def test_script(name, options):
    model = trained(name, **options).eval()
    scripted = torch.jit.script(model)
    images, targets = batch()
    with torch.no_grad():
        assert_equal_detections(model(images), scripted(images)[1])
    with pytest.raises(torch.jit.Error, match="annotated to be ignored and cannot be run"):
        scripted.train()(images, targets)


def test_converting_again_raises(name):
    model = apply_mlc(DETECTORS[name]())
    with pytest.raises(ValueError, match="converted already"):
        apply_mlc(model)


def test_other_models_raise():
    for model in (ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None), torch.nn.Linear(1, 1)):
        with pytest.raises(TypeError, match=f"got {type(model).__name__}"):
            apply_mlc(model)
        with pytest.raises(ValueError, match="call apply_mlc"):
            set_epoch(model, 1)
    with pytest.raises(TypeError, match="not be wrapped; got OptimizedModule"):
        apply_mlc(torch.compile(fcos()))


def test_settings_that_are_wrong_raise():
    with pytest.raises(TypeError, match="config or options, not both"):
        apply_mlc(fcos(), MLCConfig(), iur=False)
    with pytest.raises(ValueError, match="gamma must not be negative"):
        apply_mlc(fcos(), gamma=-1)
    for detector in DETECTORS.values():
        with pytest.raises(ValueError, match="'own_levels' is not available"):
            apply_mlc(detector(), candidates="own_levels")


def test_paper_settings_are_the_defaults():
    for detector, part, alpha in ((fcos, "head", 0.0), (retinanet, "head", 0.5), (faster_rcnn, "rpn", 2.0)):
        config = getattr(apply_mlc(detector()), part)._mlc.config
        assert (config.alpha, config.start_epoch, config.ml, config.iur) == (alpha, 12, True, True)


class OwnLoss(FCOSHead):
    def compute_loss(self, targets, head_outputs, anchors, matched_idxs):
        return {}


class OwnForward(FCOS):
    def forward(self, images, targets=None):
        return super().forward(images, targets)


def test_methods_of_ones_own():
    """A subclass works, unless the conversion would replace a method that it has of its own."""
    with pytest.raises(TypeError, match="OwnLoss.compute_loss is defined in test_torchvision_apply"):
        apply_mlc(fcos(head=OwnLoss(64, 1, 91)))
    plain = fcos()
    plain.__class__ = OwnForward
    model = pickle.loads(pickle.dumps(apply_mlc(plain)))
    assert isinstance(model, OwnForward)
    losses_of(model)


def test_training_without_set_epoch_warns_once():
    model = apply_mlc(retinanet())
    parts = r"mutual labeling \(from epoch 12\), IoU rescoring \(from epoch 12\)$"
    with pytest.warns(UserWarning, match=f"set_epoch.* has not been called.*: {parts}"):
        losses_of(model)
    with pytest.warns(UserWarning, match=r"Not started: IoU rescoring \(from epoch 3\)$"):
        losses_of(apply_mlc(retinanet(), ml=False, iur_start_epoch=3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses_of(model)
        for other, epoch in ((apply_mlc(retinanet()), 0), (apply_mlc(retinanet(), start_epoch=0), None)):
            if epoch is not None:
                set_epoch(other, epoch)
            losses_of(other)


def test_readme():
    text = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    (snippet,) = re.findall(r"```python\n(from mlc_ext.integrations.torchvision .*?)```", text, re.DOTALL)
    model = fcos()
    exec(snippet, {"model": model, "epoch": 12})
    assert isinstance(model, FCOS) and "iou_rescoring" in losses_of(model)
