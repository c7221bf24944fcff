"""Checkpoints are written whole or not at all, and foreign files are refused."""

import os
import pickle

import pytest
import torch

from mlc_ext.detectors.runs import checkpoint
from mlc_ext.detectors.runs.checkpoint import FORMAT, load_checkpoint, save_checkpoint

STATE = {
    "model": {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([1, 2])},
    "config": {"model": {"backbone": "resnet18"}, "schedule": {"milestones": (1.0, 2.0), "clip_grad": None}},
    "num_classes": 3,
    "iteration": 17,
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, STATE)
    return path


def test_round_trip(file):
    found = load_checkpoint(file)
    assert found["format"] == FORMAT and found["torch"] == torch.__version__
    assert torch.equal(found["model"].pop("weight"), STATE["model"]["weight"])
    assert torch.equal(found["model"]["bias"], STATE["model"]["bias"])
    for key in ("config", "num_classes", "iteration"):
        assert found[key] == STATE[key]
    assert found["optimizer"]["param_groups"] == STATE["optimizer"]["param_groups"]
    assert os.listdir(file.parent) == ["checkpoint.pt"]


def test_tensors_come_back_on_the_cpu(file):
    assert all(t.device.type == "cpu" for t in load_checkpoint(str(file))["model"].values())


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, OSError])
def test_a_failed_write_leaves_the_old_file(file, monkeypatch, failure):
    before = file.read_bytes()

    def dies_midway(state, stream):
        stream.write(b"half a checkpoint")
        raise failure("no space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", dies_midway)
    with pytest.raises(failure):
        save_checkpoint(file, {**STATE, "iteration": 18})
    assert file.read_bytes() == before and os.listdir(file.parent) == ["checkpoint.pt"]


def test_a_kill_before_the_rename_leaves_the_old_file(file, monkeypatch):
    """The new bytes are on the disk beside the old file, and flushed, before the name changes hands."""
    synced = []
    monkeypatch.setattr(checkpoint.os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))

    def killed(source, destination):
        assert synced == [os.path.getsize(source)] and os.path.dirname(source) == os.path.dirname(destination)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(file, {**STATE, "iteration": 18})
    assert load_checkpoint(file)["iteration"] == 17


def test_overwriting(file):
    save_checkpoint(file, {**STATE, "iteration": 18})
    assert load_checkpoint(file)["iteration"] == 18


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99])
def test_truncated_files(file, kept):
    content = file.read_bytes()
    file.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(ValueError, match=f"{file} is no readable checkpoint"):
        load_checkpoint(file)


def test_one_flipped_byte_in_the_weights_is_noticed_or_harmless(file):
    """The zip container's directory is intact, so only a checksum could detect it; it must not crash."""
    content = bytearray(file.read_bytes())
    at = bytes(content).find(STATE["model"]["weight"].numpy().tobytes())
    assert at > 0
    content[at] ^= 0xFF
    file.write_bytes(content)
    try:
        load_checkpoint(file)
    except ValueError as error:
        assert str(file) in str(error)


class Payload:
    def __reduce__(self):
        return (os.mkdir, ("made_by_a_pickle",))


@pytest.mark.parametrize("write", ["torch", "legacy", "pickle", "text", "zip"])
def test_foreign_files(tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "foreign.pt"
    if write == "torch":
        torch.save({"model": Payload()}, path)
    elif write == "legacy":
        torch.save({"model": Payload()}, path, _use_new_zipfile_serialization=False)
    elif write == "pickle":
        path.write_bytes(pickle.dumps(Payload(), protocol=2))  # torch warns of newer ones
    elif write == "zip":
        import zipfile

        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "not a checkpoint")
    else:
        path.write_text("epoch 1: loss 0.5\n")
    with pytest.raises(ValueError, match=f"{path} is no readable checkpoint"):
        load_checkpoint(path)
    assert not (tmp_path / "made_by_a_pickle").exists()  # no code of the file has run


@pytest.mark.parametrize(
    "content", [{"weight": torch.zeros(2)}, {**STATE, "format": FORMAT[:-1] + "1"}, torch.zeros(3), [1, 2]]
)
def test_other_formats(tmp_path, content):
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=f"{path} is not a checkpoint of this project"):
        load_checkpoint(path)


def test_missing_parts_are_named(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"model": {}, "iteration": 1})
    with pytest.raises(ValueError, match=f"{path} lacks config, num_classes"):
        load_checkpoint(path)


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no checkpoint {tmp_path / 'checkpoint.pt'}"):
        load_checkpoint(tmp_path / "checkpoint.pt")
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path)


def test_an_interruption_while_writing_stays_one(tmp_path, monkeypatch):
    """torch.save raises RuntimeError ("unexpected pos") on its way out; the file that was there stays."""
    save_checkpoint(tmp_path / "checkpoint.pt", {"a": 1})
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def interrupted(state, file):
        try:
            file.write(b"half")
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("unexpected pos 4 vs 0")

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path / "checkpoint.pt", {"a": 2}, keep=2)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
