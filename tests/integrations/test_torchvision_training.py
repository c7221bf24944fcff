"""Detectors of torchvision learn eight photographs by heart, plain and converted. Minutes on one core."""

import pytest
import torch
from small_detectors import DETECTORS, SHARED, ap50, detections, fit, photographs

from mlc_ext.integrations.torchvision import apply_mlc, set_epoch

STEPS = {"fcos": 150, "retinanet": 300, "faster_rcnn": 150}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (SHARED / "data" / "coco_small").is_dir(), reason=f"no data/coco_small in {SHARED}"),
]


@pytest.mark.parametrize("converted", [True, False], ids=["mlc", "plain"])
@pytest.mark.parametrize("name", DETECTORS)
def test_ap50_of_the_images_it_was_trained_on(name, converted):
    images, targets = photographs()
    assert len(images) == 8
    torch.manual_seed(0)
    model = DETECTORS[name]()
    if converted:
        apply_mlc(model)
    fit(model, images, targets, steps=STEPS[name], on_epoch=lambda e: set_epoch(model, e) if converted else None)
    assert ap50(detections(model, images), targets) >= 0.9
