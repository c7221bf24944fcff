"""Watching a run: the labels shown are those that train, and what TensorBoard reads back is what was given."""

import sys

import numpy as np
import pytest
import torch
from small_runs import config_of, train_here

from mlc_ext.detectors.engine.trainer import Trainer
from mlc_ext.detectors.models import dense_detector
from mlc_ext.detectors.models.build import build_model
from mlc_ext.detectors.visualization.drawing import NEGATIVE, POSITIVE
from mlc_ext.detectors.visualization.tensorboard import Watch
from mlc_ext.detectors.visualization.views import look

NAMES = ("fcos_minus_r50_mlc", "retinanet_r50_mlc", "rpn_r50_mlc")
SETTINGS = {"model.norm": "bn", "data.generated_images": 4, "schedule.batch_size": 2, "run.correlation": False}


def configured(name, **settings):
    return config_of(name, "run", **(SETTINGS | settings))


def batch():
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 255, (3, 96, 128), dtype=torch.uint8, generator=generator) for _ in range(2)]
    targets = [
        {"boxes": torch.tensor([[10.0, 10.0, 60.0, 70.0], [50.0, 20.0, 120.0, 90.0], [0.0, 0.0, 30.0, 30.0]]),
         "labels": torch.tensor([1, 3, 2]), "iscrowd": torch.tensor([False, False, True])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]  # fmt: skip
    return images, targets


@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_labels_shown_are_those_that_train(name, mutual, monkeypatch):
    torch.manual_seed(0)
    config = configured(name, **{"model.norm": "fixed"})  # the same outputs in training as in evaluation
    model = build_model(config, 3)
    model.set_epoch(99 if mutual else 0)
    trained = []
    original = dense_detector.task_targets
    monkeypatch.setattr(dense_detector, "task_targets", lambda a, *r, **k: trained.append((a, original(a, *r, **k)))
                        or trained[-1][1])  # fmt: skip
    images, targets = batch()
    model.train()
    model(images, targets)
    ((assignment, task),) = trained
    views = look(model, images, targets)
    candidates = (assignment.candidate_gt >= 0).view(2, -1)
    for k, view in enumerate(views):
        labels = task.cls_labels.view(2, -1)[k][candidates[k]]
        assert torch.equal(view.cls_positive, labels > 0) and torch.equal(view.cls_negative, labels == 0)
        assert torch.equal(view.loc_positive, task.loc_positive.view(2, -1)[k][candidates[k]])
        assert len(view.centers) == candidates[k].sum() and view.image is images[k]
    assert views[0].cls_positive.any() and views[0].loc_positive.any()
    # a baseline's candidates are positive, or ignored
    assert views[0].cls_negative.any() == mutual
    assert views[0].boxes.tolist() == targets[0]["boxes"][:2].tolist() and len(views[1].centers) == 0
    if name.startswith("fcos"):  # every candidate lies in an object
        x, y = views[0].centers.unbind(1)
        inside = [(x > b[0]) & (x < b[2]) & (y > b[1]) & (y < b[3]) for b in views[0].boxes]
        assert torch.stack(inside).any(0).all()


def test_looking_changes_nothing():
    model = build_model(configured("rpn_r50_mlc"), 3)
    images, targets = batch()
    for training in (True, False):
        model.train(training)
        model.set_epoch(99)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        state = torch.get_rng_state()
        look(model, images, targets)
        assert model.training == training and torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert all(p.grad is None for p in model.parameters())


def test_the_picture_holds_both_labels():
    torch.manual_seed(0)
    model = build_model(configured("fcos_minus_r50_mlc"), 3)
    model.set_epoch(99)
    images, targets = batch()
    picture = np.asarray(look(model, images, targets)[0].picture(["a", "b", "c"]))
    assert picture.shape[1] == 3 * 640 + 8
    for part in (picture[:, 644:1284], picture[:, 1288:]):
        assert all((part == color).all(-1).sum() > 50 for color in (POSITIVE, NEGATIVE))
    assert not (picture[:, :640] == POSITIVE).all(-1).any()


def events(folder):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is not installed (pip install mlc-ext[tensorboard])",
    ).EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def scalars(found, tag):
    return [(event.step, event.value) for event in found.Scalars(tag)]


def test_scalars_and_images_are_read_back(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed (pip install mlc-ext[tensorboard])")
    watch = Watch(tmp_path, ["a", "b", "c"])
    assert not list(tmp_path.iterdir())  # nothing before there is something to report
    watch.log_scalars(3, {"loss": 0.5, "mutual": True, "odd": float("nan")})
    watch.log_scalars(4, {"loss": 0.25})
    watch.log_scalars(4, {"AP": 0.125}, "evaluation")
    watch.log_images(4, build_model(configured("fcos_minus_r50_mlc"), 3), *batch())
    watch.close()
    found = events(tmp_path)
    assert set(found.Tags()["scalars"]) == {"train/loss", "train/mutual", "evaluation/AP"}
    assert scalars(found, "train/loss") == [(3, 0.5), (4, 0.25)] and scalars(found, "train/mutual") == [(3, 1.0)]
    assert found.Tags()["images"] == ["images/0", "images/1"]
    assert (found.Images("images/0")[0].step, found.Images("images/0")[0].width) == (4, 3 * 640 + 8)


def test_a_resumed_run_hides_what_it_does_again(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed (pip install mlc-ext[tensorboard])")
    for steps, value in ((range(1, 9), 1.0), (range(5, 7), 2.0)):
        watch = Watch(tmp_path, [])
        for step in steps:
            watch.log_scalars(step, {"loss": value})
        watch.close()
    assert scalars(events(tmp_path), "train/loss") == [(k, 1.0) for k in range(1, 5)] + [(5, 2.0), (6, 2.0)]


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    watch = Watch(tmp_path, [])
    watch.log_scalars(1, {"loss": 1.0})
    watch.log_images(1, None, *batch())
    watch.close()
    assert not list(tmp_path.iterdir())


def test_without_tensorboard_the_run_ends_at_the_start(tmp_path, monkeypatch, threads, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.chdir(tmp_path)
    code, _, error = train_here(capsys, "--out", "run", **SETTINGS, **{"run.tensorboard": True})
    assert code == 2 and "run.tensorboard needs tensorboard (pip install mlc-ext[tensorboard])" in error


def test_a_run_is_watched_and_trains_the_same(tmp_path, monkeypatch, threads):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed (pip install mlc-ext[tensorboard])")
    monkeypatch.chdir(tmp_path)
    weights = []
    for watched in (False, True):
        config = configured("rpn_r50_mlc", **{"run.tensorboard": watched, "run.out": f"run{watched}",
                                              "mlc.start_epoch": 1, "run.eval_every": 1})  # fmt: skip
        trainer = Trainer(config, progress=False)
        metrics = trainer.run()
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not (tmp_path / "runFalse" / "tensorboard").exists()
    found = events(tmp_path / "runTrue" / "tensorboard")
    logged = [entry for entry in trainer.metrics.entries if "loss" in entry]
    assert scalars(found, "train/loss") == [(e["iteration"], pytest.approx(e["loss"])) for e in logged]
    assert [value for _, value in scalars(found, "train/mutual")] == [0, 0, 1, 1]
    assert scalars(found, "evaluation/AR@100")[-1] == (4, pytest.approx(metrics["AR@100"]))
    assert [event.step for event in found.Images("images/0")] == [2, 4]
