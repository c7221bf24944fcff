"""Several processes make the run of one: the same losses, weights and metrics; and they end together."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from small_runs import config_of, end_rank, finish, free_port, history, losses, reached, start, take_step, wait_until

from mlc_ext.detectors import distributed
from mlc_ext.detectors.data.generated.dataset import generate
from mlc_ext.detectors.engine.nonfinite import NonFiniteLoss
from mlc_ext.detectors.engine.signals import Interruption
from mlc_ext.detectors.engine.trainer import Trainer
from mlc_ext.detectors.runs.checkpoint import load_checkpoint

RUNS = {
    ("fcos_r50", "full"): {},
    ("fcos_minus_r50_mlc", "full"): {"schedule__ema": 0.9},
    ("fcos_minus_r50_mlc", "empty"): {"epochs": 2},
    ("retinanet_r50_mlc", "full"): {"schedule__optimizer": "adamw"},
    ("retinanet_r50_mlc", "empty"): {},
    ("rpn_r50_mlc", "full"): {},
}
"""Preset and data -> settings."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Generated data, and the same with all objects but one image's taken away: most ranks have none."""
    folder = tmp_path_factory.mktemp("ranks")
    generate(folder / "full", num_train=7, num_val=3, image_size=64)
    generate(folder / "empty", num_train=7, num_val=3, image_size=64)
    path = folder / "empty" / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    chosen = content["annotations"][0]["image_id"]
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] == chosen]
    path.write_text(json.dumps(content))
    return folder


def train_all(folder: Path, kind: str) -> None:
    for (name, data), settings in RUNS.items():
        options = {"epochs": 1, "data__data": str(folder / data)} | settings
        Trainer(config_of(name, folder / kind / data / name, **options), progress=False).run()


def rank_of_two(rank: int, folder: Path, port: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    train_all(folder, "two")
    end_rank()


def rank_with_its_own_data(rank: int, folder: Path, port: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    data = folder / ("full", "empty")[rank]
    with pytest.raises(distributed.SetupError, match="^rank 1 has other images or objects than rank 0"):
        Trainer(config_of("fcos_minus_r50_mlc", folder / "other", data__data=str(data)), progress=False)
    (folder / f"refused_{rank}").touch()
    end_rank()


def test_a_rank_with_other_data_ends_all(folder):
    mp.spawn(rank_with_its_own_data, args=(folder, free_port()), nprocs=2)
    assert sorted(path.name for path in folder.glob("refused_*")) == ["refused_0", "refused_1"]


@pytest.fixture(scope="module")
def runs(folder):
    threads = torch.get_num_threads()
    train_all(folder, "one")
    torch.set_num_threads(threads)
    mp.spawn(rank_of_two, args=(folder, free_port()), nprocs=2)
    return folder


@pytest.mark.parametrize(("name", "data"), RUNS)
def test_two_processes_are_one_with_the_same_batch(runs, name, data):
    """4 and 3 images a step: shares of 2 + 2, and of 1 + 2."""
    one, two = (runs / kind / data / name for kind in ("one", "two"))
    assert len(losses(one)) == 2 * RUNS[name, data].get("epochs", 1)
    for a, b in zip(losses(one), losses(two), strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-7)
    a, b = (load_checkpoint(out / "checkpoint.pt") for out in (one, two))
    for key, value in a["model"].items():
        torch.testing.assert_close(b["model"][key], value, rtol=1e-4, atol=1e-5, msg=key)
    metrics = [json.loads((out / "metrics.json").read_text())["metrics"] for out in (one, two)]
    assert metrics[0] == pytest.approx(metrics[1], abs=5e-3, nan_ok=True)
    assert metrics[0].get("correlation_gts") == metrics[1].get("correlation_gts")


def one_vote(rank: int, port: int) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    # a signal on rank 1 during step 3 of 5 stops both after step 4; in the last step both at once
    for signaled, last, stops_at in ((3, 5, 4), (5, 5, 5), (None, 5, None)):
        with Interruption() as interruption:
            interruption.deferring, stopped = True, None
            for step in range(1, last + 1):
                if rank == 1 and step == signaled:
                    os.kill(os.getpid(), signal.SIGTERM)
                try:
                    interruption.check(last=step == last)
                except KeyboardInterrupt:
                    stopped = step
                    break
            assert stopped == stops_at, (rank, signaled, stopped)
    with pytest.raises(distributed.SetupError, match="rank 1: no such device"):
        with distributed.together():
            if rank == 1:
                raise ValueError("no such device")
    assert distributed.gather(rank) == [0, 1] and distributed.broadcast(("of", rank)) == ("of", 0)
    assert distributed.any_rank(torch.tensor(rank == 1)) and not distributed.any_rank(torch.tensor(False))
    end_rank()


def test_ranks_agree():
    mp.spawn(one_vote, args=(free_port(),), nprocs=2)


def one_bad_loss(rank: int, folder: Path, port: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    settings = {"data__data": str(folder / "full"), "run__log_every": 2, "model__norm": "bn"}
    trainer = Trainer(config_of("fcos_minus_r50_mlc", folder / "bad", epochs=2, **settings), progress=False)
    whole = trainer.model.losses

    def losses_(*arguments):
        found = whole(*arguments)
        if rank == 1 and trainer.iteration == 2:
            found["classification"] = found["classification"] * float("inf")
        return found

    trainer.model.losses = losses_
    step, weights = trainer.stepper.step, []

    def spy(*batch):
        weights.append([p.detach().clone() for p in trainer.model.parameters()])
        return step(*batch)

    trainer.stepper.step = spy
    with pytest.raises(NonFiniteLoss, match="not finite at iteration 3: ") as caught:
        trainer.run()
    assert caught.value.here == (rank == 1) and trainer.iteration == 4
    for now, before in zip(trainer.model.parameters(), weights[2], strict=True):
        assert torch.equal(now, before)
    end_rank()


def test_a_bad_loss_on_one_rank_stops_all_at_the_same_step(folder):
    mp.spawn(one_bad_loss, args=(folder, free_port()), nprocs=2)
    first, second = (torch.load(folder / "bad" / f"nonfinite{rank}.pt", weights_only=True) for rank in ("", "_rank1"))
    assert "model" in first and "model" not in second
    ids = first["image_ids"] + second["image_ids"]
    assert len(first["image_ids"]) == len(second["image_ids"]) == 2 and len(set(ids)) == 4


def one_accumulated(rank: int, config, port: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    trainer = Trainer(config, progress=False)
    take_step(trainer, *next(iter(trainer.loader)))
    sums = {name: value.double().sum().item() for name, value in trainer.model.state_dict().items()}
    states = distributed.gather(sums)
    assert states[0] == states[1]
    if rank == 0:
        torch.save(trainer.model.state_dict(), trainer.folder.path / "model.pt")
    end_rank()


def test_parts_and_ranks(folder):
    """Two ranks with two parts: the first parts of both make one normalizer, and the second ones."""
    settings = {"data__data": str(folder / "full"), "schedule__accumulate": 2, "run__compile": "eager"}
    config = config_of("retinanet_r50_mlc", folder / "parts", **settings)
    mp.spawn(one_accumulated, args=(config, free_port()), nprocs=2)
    alone = Trainer(config, progress=False)
    images, targets = next(iter(alone.loader))
    order = [0, 2, 1, 3]
    take_step(alone, [images[i] for i in order], [targets[i] for i in order])
    for name, value in torch.load(folder / "parts" / "model.pt", weights_only=True).items():
        torch.testing.assert_close(value, alone.model.state_dict()[name], rtol=1e-5, atol=1e-7)


def test_alone_everything_is_trivial():
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.gather("x") == ["x"] and distributed.broadcast("x") == "x"
    model = torch.nn.Linear(1, 1)
    assert distributed.parallel(model) is model
    with pytest.raises(TypeError, match="mine"), distributed.together():
        raise TypeError("mine")
    assert not distributed.is_lost_peer(RuntimeError("gloo: Connection closed by peer"))


def test_torchrun_prints_once_and_evaluates_all_images(folder):
    """Both runs of --compare: the method's continues from the baseline's checkpoint, which rank 0 has written."""
    arguments = ("--data", folder / "full", "--epochs", "1", "--out", "program", "--compare")
    code, out, error = finish(start(folder, *arguments, ranks=2))
    assert code == 0, error
    assert out.count("MLC: program/MLC") == 1 and out.count("AP50") == 1
    for run in (folder / "program" / "baseline", folder / "program" / "MLC"):
        assert sorted(p.name for p in run.iterdir()) == [
            "checkpoint.1.pt", "checkpoint.pt", "config.json", "log.txt", "metrics.json", "metrics.jsonl"
        ]  # fmt: skip
        assert [entry["iteration"] for entry in history(run)] == [1, 2, 2]
    code, out, error = finish(start(folder, "program/MLC/checkpoint.pt", ranks=2, program="evaluate.py"))
    assert code == 0, error
    expected = history(folder / "program" / "MLC")[-1]["metrics"]["correlation"]
    table, *details = out.split("\n\n")
    assert table.count("AP50") == 1 and f"{expected:.3f}" in table.split()
    assert [part.split()[0] for part in details] == ["class", "errors", "confusion,", "kept"]


@pytest.mark.parametrize("lost", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_killed_rank_ends_the_run_and_another_number_of_ranks_goes_on(folder, lost):
    out = f"killed{lost}"
    arguments = ("--data", folder / "full", "--epochs", "60", "--out", out)
    process = start(folder, *arguments, ranks=2, run__save_every=2, mlc__start_epoch=1)
    wait_until(process, lambda: reached(folder / out, 5))
    os.kill(rank_process(process.pid, lost), signal.SIGKILL)
    code, _, error = finish(process)
    assert code == 1
    at = load_checkpoint(folder / out / "checkpoint.pt")["iteration"]
    assert at >= 4 and (lost == 0) == ("train.py: another process of this run is gone" not in error)
    limit = ("--allow-change", "schedule.epochs", "--epochs", at // 2 + 1)
    code, _, error = finish(start(folder, *arguments, *limit, "--resume", "auto", mlc__start_epoch=1))
    assert code == 0, error
    assert [entry["iteration"] for entry in losses(folder / out)] == list(range(1, 2 * (at // 2 + 1) + 1))


def rank_process(parent: int, rank: int) -> int:
    """The process id of torchrun's child with that rank."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if f"\0RANK={rank}\0" in Path(f"/proc/{child}/environ").read_text():
            return int(child)
    raise AssertionError(f"no rank {rank}")


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_signal_to_torchrun_saves(folder, number):
    out = f"signal{number}"
    process = start(folder, "--data", folder / "full", "--epochs", "90", "--out", out, ranks=2, run__save_every="none")
    wait_until(process, lambda: reached(folder / out, 3))
    process.send_signal(number)
    code, _, error = finish(process)
    state = load_checkpoint(folder / out / "checkpoint.pt")
    assert code != 0 and f"interrupted: {out}/checkpoint.pt holds iteration {state['iteration']} of 180" in error
    assert losses(folder / out)[-1]["iteration"] == state["iteration"] >= 3


def test_mistakes_are_reported_once(folder):
    code, _, error = finish(start(folder, "--data", folder / "full", ranks=2, schedule__batch_size=1))
    assert code == 1  # torchrun's own
    assert error.count("train.py: schedule.batch_size must give each of 2 processes x 1 parts an image, got 1") == 1


def test_a_gpu_each(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert distributed.pick_device("auto") == distributed.pick_device("cuda") == torch.device("cuda:1")
    with pytest.raises(ValueError, match="'cuda:0' would be shared by 2 processes"):
        distributed.pick_device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="device 'cuda:2': torch sees 2 GPUs"):
        distributed.pick_device("cuda")


def test_evaluation_shares_are_a_partition():
    for count in (1, 5, 8):
        for ranks in (1, 2, 3, 8):
            shares = [np.arange(rank, count, ranks) for rank in range(ranks)]
            assert sorted(np.concatenate(shares).tolist()) == list(range(count))
