"""Kept evaluations: the same outputs, and computed again whenever anything has changed."""

import contextlib
import importlib.metadata
import io
import json
import os
import shutil

import pytest
import torch
from full_disks import full_disk
from small_runs import assert_same, config_of

from mlc_ext import PredictionWriter
from mlc_ext.detectors.config.overrides import override
from mlc_ext.detectors.data.generated.dataset import generate
from mlc_ext.detectors.engine.trainer import Trainer
from mlc_ext.detectors.evaluation import stored
from mlc_ext.detectors.evaluation.stored import FOLDER, measure_once, weights_digest
from mlc_ext.detectors.runs.load import load_for_evaluation


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    data = generate(folder / "data", num_train=4, num_val=3, image_size=64)
    Trainer(config_of("fcos_minus_r50_mlc", folder / "run", 1, data__data=str(data)), progress=False).run()
    return folder / "run"


@pytest.fixture
def loaded(run):
    for path in run.glob(f"{FOLDER}/*"):
        path.unlink()
    return load_for_evaluation(run, device="cpu")


def once(loaded, **options):
    return measure_once(loaded, 2, progress=False, **options)


def test_the_second_time_is_read(loaded, run, monkeypatch):
    first = once(loaded)
    assert not first.reused and [first.file] == list((run / FOLDER).iterdir())
    monkeypatch.setattr(stored, "measure_loaded", lambda *_, **__: pytest.fail("it was computed again"))
    second = once(load_for_evaluation(run / "checkpoint.pt", device="cpu"))
    assert second.reused and second.file == first.file
    assert second.measured.metrics() == pytest.approx(first.measured.metrics(), abs=0, nan_ok=True)
    assert second.measured.evaluator.results() == first.measured.evaluator.results()
    assert_same(second.measured.divergence.state_dict(), first.measured.divergence.state_dict())


def test_computed_again_if_asked_or_for_predictions_before_nms(loaded):
    once(loaded)
    assert once(loaded).reused
    assert not once(loaded, again=True).reused
    assert not once(loaded, writer=PredictionWriter({1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 7: 7, 8: 8})).reused


def test_other_weights_replace_the_file(loaded, run):
    first = once(loaded)
    before = weights_digest(loaded.model)
    with torch.no_grad():
        next(loaded.model.parameters()).mul_(1.5)
    assert weights_digest(loaded.model) != before
    changed = once(loaded)
    assert not changed.reused and changed.file == first.file
    assert not once(load_for_evaluation(run, device="cpu")).reused


def test_other_settings_data_and_code_are_other_evaluations(loaded, run, monkeypatch):
    first = once(loaded)
    assert not measure_once(loaded, 1, progress=False).reused
    config = override(loaded.config, "model.nms_threshold", 0.3)
    other = once(loaded._replace(config=config))
    assert not other.reused and other.file != first.file
    path = loaded.dataset.image_path(0)
    os.utime(path, ns=(1, 1))
    assert not once(loaded).reused and once(loaded).reused
    monkeypatch.setattr(stored, "_sources_digest", lambda: "changed code")
    assert not once(loaded).reused


def test_other_trained_epochs_are_another_evaluation(loaded):
    """IoU rescoring ranks in evaluation only from mlc.rescoring_start on."""
    first = once(loaded)
    loaded.model.set_epoch(loaded.model.epoch + 1)
    changed = once(loaded)
    assert not changed.reused and changed.file == first.file and once(loaded).reused


def test_an_image_replaced_by_one_of_equal_size_and_time_is_another_evaluation(loaded):
    once(loaded)
    path = loaded.dataset.image_path(0)
    content, before = path.read_bytes(), path.stat()
    try:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
        assert not once(loaded).reused
    finally:
        path.write_bytes(content)


def test_another_version_of_a_package_is_another_evaluation(loaded, monkeypatch):
    once(loaded)
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0" if name == "pillow" else version(name))
    assert not once(loaded).reused


def test_best_and_newest_checkpoint_are_kept_apart(loaded, run):
    newest = once(loaded)
    best = loaded.checkpoint.with_name("best.pt")
    shutil.copy(loaded.checkpoint, best)
    try:
        other = once(load_for_evaluation(run, device="cpu"))
    finally:
        best.unlink()
    assert other.file.name.startswith("best_") and newest.file.exists() and not other.reused


def test_averaged_weights_are_those_that_count(loaded, run, tmp_path):
    """schedule.ema: other averages with the same weights of the last step are another evaluation."""
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    results = []
    for factor in (1.0, 1.5):
        name = next(key for key, value in state["model"].items() if value.is_floating_point())
        state["ema"] = {"weights": {**state["model"], name: state["model"][name] * factor}}
        torch.save(state, tmp_path / "checkpoint.pt")
        results.append(once(load_for_evaluation(tmp_path, device="cpu")))
    assert [each.reused for each in results] == [False, False]


def test_other_objects_are_another_evaluation(loaded, run):
    once(loaded)
    path = loaded.dataset.annotation_file
    text = path.read_text()
    content = json.loads(text)
    content["annotations"][0]["bbox"][2] /= 2
    path.write_text(json.dumps(content))
    try:
        assert not once(load_for_evaluation(run, device="cpu")).reused
    finally:
        path.write_text(text)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not a file of torch", None])
def test_a_damaged_file_is_computed_again(loaded, damage, caplog):
    path = once(loaded).file
    path.write_bytes(path.read_bytes()[:-300] if damage is None else damage)
    assert not once(loaded).reused
    assert f"{path} cannot be read and is computed again" in caplog.text
    assert once(loaded).reused


def test_a_folder_that_cannot_be_written_is_a_warning(loaded, tmp_path, caplog):
    (tmp_path / FOLDER).write_text("in the way")
    found = once(loaded._replace(checkpoint=tmp_path / "checkpoint.pt"))
    assert found.file is None and not found.reused and "the evaluation is not kept" in caplog.text
    assert found.measured.metrics()


def test_a_full_disk_is_a_warning_and_leaves_no_file(loaded, run, caplog):
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    bias = next(name for name in state["model"] if name.endswith("cls_logits.bias"))
    state["model"][bias] += 9  # all scores are high: many detections
    torch.save(state, run / "many.pt")
    with full_disk(6000):
        found = once(load_for_evaluation(run / "many.pt", device="cpu"))
    assert found.file is None and "the evaluation is not kept: [Errno 27] File too large" in caplog.text
    assert list((loaded.checkpoint.parent / FOLDER).iterdir()) == []


def test_ctrl_c_while_the_file_is_written_ends_the_program(loaded, monkeypatch):
    class Interrupted(io.BytesIO):
        writes = 0

        def write(self, data):
            self.writes += 1
            if self.writes == 2:  # torch's writer makes a RuntimeError of it
                raise KeyboardInterrupt
            return super().write(data)

    monkeypatch.setattr(stored, "replacing", lambda _: contextlib.nullcontext(Interrupted()))
    with pytest.raises(KeyboardInterrupt):
        once(loaded)
