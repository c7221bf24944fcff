"""The configs in mmengine's Runner: training, validation and resuming on photographs."""

from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from small_detectors import SHARED
from small_mmdet import build
from torch.utils.data import DataLoader

import mlc_ext.integrations.mmdet
from mlc_ext.integrations.mmdet.head import MLCHead

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "mmdetection.md"
CONFIGS = sorted((Path(mlc_ext.integrations.mmdet.__file__).parent / "configs").glob("*.py"))
DATA = SHARED / "data" / "coco_small"


needs_photographs = pytest.mark.skipif(not DATA.is_dir(), reason=f"the photographs are not there: {DATA}")
every_config = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name.split("_")[0])


def small(path: Path, out: Path, epochs: int = 3) -> Config:
    """The config with small images and an untrained backbone; the method starts in the second epoch."""
    config = Config.fromfile(path)
    config.default_hooks.pop("visualization")
    config.work_dir, config.randomness = str(out), {"seed": 0}
    config.visualizer.name = str(out)  # MMEngine keeps one visualizer of a name, with its folder, for the process
    config.model.backbone.init_cfg = None
    config.model.backbone.depth, config.model.neck.in_channels = 18, [64, 128, 256, 512]
    config.model.backbone.frozen_stages = -1
    head = config.model.get("bbox_head") or config.model.rpn_head
    head.mlc.start_epoch = 1
    for split, loader in (("train", config.train_dataloader), ("val", config.val_dataloader)):
        dataset = loader.dataset
        dataset.data_root, dataset.ann_file = str(DATA), f"annotations/instances_{split}.json"
        dataset.data_prefix, dataset.indices = {"img": f"{split}/"}, 6
        loader.batch_size, loader.num_workers, loader.persistent_workers = 2, 0, False
        for step in dataset.pipeline:
            if step.type == "Resize":
                step.scale = (128, 96)
    config.val_evaluator.ann_file = str(DATA / "annotations" / "instances_val.json")
    config.test_dataloader = config.test_evaluator = config.test_cfg = None
    config.train_cfg = {"type": "EpochBasedTrainLoop", "max_epochs": epochs, "val_interval": epochs}
    config.param_scheduler, config.optim_wrapper.optimizer = [], {"type": "SGD", "lr": 1e-3, "weight_decay": 1e-4}
    return config


class Losses(Hook):
    """The losses of every iteration; the logger's are means."""

    def __init__(self):
        self.found = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.found.append({name: float(value) for name, value in outputs.items()})


@every_config
def test_the_shipped_configs_build(path):
    config = Config.fromfile(path)
    config.model.backbone.init_cfg = None
    config.model.backbone.depth, config.model.neck.in_channels = 18, [64, 128, 256, 512]
    model = MODELS.build(config.model)
    head = getattr(model, "bbox_head", None) or model.rpn_head
    assert isinstance(head, MLCHead) and head.state.config.ml and head.state.config.iur
    assert [hook.type for hook in config.custom_hooks] == ["MLCEpochHook"]


@pytest.mark.parametrize("start_epoch", [1, 2])
@pytest.mark.parametrize("loop", ["EpochBasedTrainLoop", "IterBasedTrainLoop"])
def test_the_epoch_of_both_loops(loop, start_epoch, tmp_path):
    """24 images in batches of 4: 6 iterations are an epoch. A training of two epochs never reaches a start at 2."""
    epochs = []

    class Model(BaseModel):
        def __init__(self):
            super().__init__()
            self.head = build("FCOSHead", mlc={"start_epoch": start_epoch})
            self.head.state.set_epoch = epochs.append

        def forward(self, inputs, mode="tensor"):
            return {"loss": next(self.head.parameters()).sum() * 0}

    length = {"max_epochs": 2} if loop == "EpochBasedTrainLoop" else {"max_iters": 12}
    loader = DataLoader([{"inputs": torch.zeros(1)}] * 24, 4, sampler=InfiniteSampler(range(24)))
    if loop == "EpochBasedTrainLoop":
        loader = DataLoader([{"inputs": torch.zeros(1)}] * 24, 4)
    Runner(
        Model(),
        str(tmp_path),
        train_dataloader=loader,
        train_cfg={"type": loop, **length},
        optim_wrapper={"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 1.0}},
        custom_hooks=[{"type": "MLCEpochHook"}],
        default_scope="mmdet",
        experiment_name=str(tmp_path),
    ).train()
    assert epochs == pytest.approx([i / 6 for i in range(12)])
    logged = "".join(path.read_text() for path in tmp_path.rglob("*.log"))
    late = "MLCFCOSHead: the training ends before the start of mutual labeling (from epoch 2), IoU rescoring (from"
    assert logged and (late in logged) == (start_epoch == 2)


@needs_photographs
@every_config
def test_a_whole_runner(path, tmp_path, monkeypatch):
    config = small(path, tmp_path)
    runner, hook = Runner.from_cfg(config), Losses()
    runner.register_hook(hook)
    runner.train()
    losses = hook.found
    assert len(losses) == 9  # 3 epochs of 3 batches
    name = next(n for n in ("loss_iou", "loss_rpn_iou") if n in losses[-1])
    before, after = losses[:3], losses[3:]
    assert all(line.get(name, 0) == 0 for line in before) and all(line[name] > 0 for line in after)
    assert ("loss_centerness" in losses[0]) == path.name.startswith("fcos")
    assert "loss_centerness" not in losses[-1]
    assert all(torch.isfinite(torch.tensor(line["loss"])) for line in losses)
    assert (tmp_path / "epoch_3.pth").is_file()

    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # MMEngine's checkpoints have more than weights
    config = small(path, tmp_path, epochs=4)
    config.resume = True
    again = Runner.from_cfg(config)
    again.train()
    assert again.iter == 12
    head = getattr(again.model, "bbox_head", None) or again.model.rpn_head
    assert head.state.mutual and head.state.rescoring


def test_the_guides_config_is_the_one_of_fcos(tmp_path):
    (tmp_path / "config.py").write_text(GUIDE.read_text().split("```python\n")[1].split("```")[0])
    found = Config.fromfile(tmp_path / "config.py")
    expected = Config.fromfile(next(path for path in CONFIGS if path.name.startswith("fcos")))
    expected.custom_imports.pop("allow_failed_imports")
    assert found.to_dict() == expected.to_dict()
