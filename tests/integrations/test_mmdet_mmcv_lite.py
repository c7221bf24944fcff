"""The operators that stand in for mmcv's in mmcv-lite."""

import subprocess
import sys

import pytest
import torch
import torchvision
from mmcv import ops
from mmcv.ops import RoIAlign, batched_nms, sigmoid_focal_loss
from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss
from mmdet.utils import collect_env

from mlc_ext.integrations import mmcv_lite

pytestmark = pytest.mark.skipif(not mmcv_lite.install(), reason="the full mmcv is installed")


def random_boxes(count, seed=0):
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=g) * 50
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=g) * 30], 1), torch.rand(count, generator=g)


@pytest.mark.parametrize("count", [1, 300])
def test_nms(count):
    boxes, scores = random_boxes(count)
    labels = torch.arange(count) % 3
    found, keep = batched_nms(boxes, scores, labels, {"type": "nms", "iou_threshold": 0.5})
    expected = torchvision.ops.batched_nms(boxes, scores, labels, 0.5)
    assert torch.equal(keep, expected)
    assert torch.equal(found, torch.cat([boxes[expected], scores[expected, None]], 1))


def test_focal_loss():
    g = torch.Generator().manual_seed(0)
    values, target = torch.randn(50, 4, generator=g) * 4, torch.randint(0, 5, (50,), generator=g)
    logits, other = values.clone().requires_grad_(), values.clone().requires_grad_()
    one_hot = torch.nn.functional.one_hot(target, 5)[:, :4]
    found = sigmoid_focal_loss(logits, target, 2.0, 0.25, None, "none")
    expected = py_sigmoid_focal_loss(other, one_hot, reduction="none")
    torch.testing.assert_close(found, expected)
    weight = torch.rand(50, 4, generator=g)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(logits.grad, other.grad)


@pytest.mark.parametrize("aligned", [False, True])
def test_roi_align(aligned):
    g = torch.Generator().manual_seed(0)
    values = torch.randn(2, 3, 20, 20, generator=g)
    rois = torch.cat([torch.tensor([[0.0], [1.0], [1.0]]), random_boxes(3)[0]], 1)
    ours, theirs = values.clone().requires_grad_(), values.clone().requires_grad_()
    found = RoIAlign((7, 5), 0.25, 2, "avg", aligned)(ours, rois)
    expected = torchvision.ops.roi_align(theirs, rois, (7, 5), 0.25, 2, aligned)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_other_operators_raise():
    boxes, scores = random_boxes(5)
    with pytest.raises(ImportError, match="mmcv-lite does not have the operator softnms.*install the full mmcv"):
        batched_nms(boxes, scores, torch.zeros(5), {"type": "soft_nms", "iou_threshold": 0.5})
    with pytest.raises(ImportError, match="pool_mode='max' needs the full mmcv"):
        RoIAlign(7, 1.0, 2, "max")(torch.zeros(1, 1, 8, 8), torch.zeros(1, 5))


def test_the_report_of_the_environment():
    assert collect_env()["MMDetection"]
    assert (ops.get_compiler_version(), ops.get_compiling_cuda_version()) == ("n/a", "n/a")


def run(*arguments):
    return subprocess.run([sys.executable, "-W", "ignore", *arguments], capture_output=True, text=True)


def test_without_it_the_error_names_it():
    found = run("-c", "import mlc_ext.integrations.mmdet")
    assert found.returncode == 1
    assert "ImportError: MMDetection does not import with mmcv-lite. Install the full mmcv, or import" in found.stderr


def test_a_program_that_imports_mmdetection_first(tmp_path):
    program = tmp_path / "program.py"
    (tmp_path / "beside.py").write_text("NAME = 'beside'")
    program.write_text(
        "import sys, mmdet.models, beside; from mlc_ext.integrations import mmcv_lite\n"
        "print(__name__, beside.NAME, mmcv_lite.install(), sys.argv[1:])"
    )
    found = run("-m", "mlc_ext.integrations.mmcv_lite", program, "a", "b")
    assert (found.returncode, found.stdout) == (0, "__main__ beside True ['a', 'b']\n"), found.stderr
    assert (
        "usage: python -m mlc_ext.integrations.mmcv_lite PROGRAM.py"
        in run("-m", "mlc_ext.integrations.mmcv_lite").stderr
    )
