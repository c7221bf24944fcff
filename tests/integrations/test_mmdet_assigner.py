"""MLCMaxIoUAssigner against MMDetection's MaxIoUAssigner."""

import pytest
import torch
from mmdet.models.task_modules.assigners import MaxIoUAssigner
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData

from mlc_ext.integrations.mmdet import MLCMaxIoUAssigner

SETTINGS = [
    {"pos_iou_thr": 0.5, "neg_iou_thr": 0.4, "min_pos_iou": 0.01},
    {"pos_iou_thr": 0.7, "neg_iou_thr": 0.3, "min_pos_iou": 0.3},
    {"pos_iou_thr": 0.5, "neg_iou_thr": 0.5, "min_pos_iou": 0.5, "match_low_quality": False},
    {"pos_iou_thr": 0.5, "neg_iou_thr": 0.4, "min_pos_iou": 0.1, "ignore_iof_thr": 0.5},
]


def boxes(count, generator, size=40.0):
    corner = torch.rand(count, 2, generator=generator) * 100
    return torch.cat([corner, corner + 2 + torch.rand(count, 2, generator=generator) * size], 1).round()


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("num_gts", [0, 1, 7, 60])
def test_equal_to_mmdetections(settings, num_gts):
    for seed in range(5):
        g = torch.Generator().manual_seed(seed)
        priors = InstanceData(priors=boxes(400, g))
        gts = InstanceData(bboxes=boxes(num_gts, g), labels=torch.randint(0, 5, (num_gts,), generator=g))
        ignore = InstanceData(bboxes=boxes(2, g, 80.0))
        found = MLCMaxIoUAssigner(**settings).assign(priors, gts, ignore)
        expected = MaxIoUAssigner(**settings).assign(priors, gts, ignore)
        assert torch.equal(found.gt_inds, expected.gt_inds)
        assert torch.equal(found.labels, expected.labels)
        torch.testing.assert_close(found.max_overlaps, expected.max_overlaps)
        assert found.num_gts == num_gts and found.gt_inds.dtype == torch.int64


def test_a_gt_that_overlaps_no_prior_matches_nothing():
    priors = InstanceData(priors=torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]]))
    gts = InstanceData(
        bboxes=torch.tensor([[0.0, 0.0, 10.0, 9.0], [50.0, 50.0, 60.0, 60.0]]), labels=torch.tensor([2, 3])
    )
    settings = {"pos_iou_thr": 0.5, "neg_iou_thr": 0.4, "min_pos_iou": 0}
    assert MLCMaxIoUAssigner(**settings).assign(priors, gts).gt_inds.tolist() == [1, 0]
    assert MaxIoUAssigner(**settings).assign(priors, gts).gt_inds.tolist() == [2, 2]  # mmdetection#8289


def test_box_types():
    g = torch.Generator().manual_seed(0)
    raw, gt = boxes(50, g), boxes(4, g)
    labels = torch.arange(4)
    assigner = MLCMaxIoUAssigner(pos_iou_thr=0.5, neg_iou_thr=0.4)
    plain = assigner.assign(InstanceData(priors=raw), InstanceData(bboxes=gt, labels=labels))
    typed = InstanceData(bboxes=HorizontalBoxes(gt), labels=labels)
    assert torch.equal(assigner.assign(InstanceData(priors=HorizontalBoxes(raw)), typed).gt_inds, plain.gt_inds)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("neg_iou_thr", (0.1, 0.4)),
        ("gt_max_assign_all", False),
        ("ignore_wrt_candidates", False),
        ("perm_repeat_gt_cfg", {"iou_thr": 0.9}),
        ("iou_calculator", {"type": "BboxOverlaps2D_GLIP"}),
        ("iou_calculator", {"type": "BboxOverlaps2D", "scale": 512.0, "dtype": "fp16"}),
    ],
)
def test_settings_that_need_the_matrix(setting, value):
    with pytest.raises(ValueError, match=f"this value of {setting} needs MMDetection's MaxIoUAssigner"):
        MLCMaxIoUAssigner(**{"pos_iou_thr": 0.5, "neg_iou_thr": 0.4} | {setting: value})


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("pos_iou_thr", 50, "pos_iou_thr=50, .*0 <= low <= high <= 1"),
        ("neg_iou_thr", -0.1, "neg_iou_thr=-0.1, .*0 <= low <= high <= 1"),
        ("neg_iou_thr", 0.9, "neg_iou_thr=0.9, .*0 <= low <= high <= 1"),
        ("min_pos_iou", 3, "min_pos_iou=3: .*must be in \\[0, 1\\]"),
    ],
)
def test_thresholds_that_cannot_be(setting, value, message):
    with pytest.raises(ValueError, match=f"MLCMaxIoUAssigner: .*{message}"):
        MLCMaxIoUAssigner(**{"pos_iou_thr": 0.5, "neg_iou_thr": 0.4} | {setting: value})
