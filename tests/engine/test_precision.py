"""How a step is computed: precision, parts, averages, layout, compilation, determinism; nothing waits in it."""

from __future__ import annotations

import copy
import re
import traceback

import pytest
import torch
from small_runs import assert_same, config_of, finish, history, losses, start, take_step
from torch.utils._python_dispatch import TorchDispatchMode

from mlc_ext.detectors.config.overrides import override
from mlc_ext.detectors.config.settings import Config, RunConfig
from mlc_ext.detectors.engine import precision
from mlc_ext.detectors.engine.ema import WeightAverage
from mlc_ext.detectors.engine.trainer import Trainer
from mlc_ext.detectors.evaluation.measure import evaluate_checkpoint
from mlc_ext.detectors.runs.checkpoint import load_checkpoint, trained_weights
from mlc_ext.sampling import draws_by_image, sample_at_most


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("precision")


@pytest.fixture(autouse=True)
def switches(in_folder):
    yield
    precision.configure(RunConfig(tf32=False))


def trainer(folder, name="fcos_minus_r50_mlc", **settings):
    return Trainer(config_of(name, folder / "run", **settings), progress=False)


def batches(trainer, count):
    trainer.loader.set_epoch(0)
    found = list(trainer.loader)
    return [found[i % 2] for i in range(count)]


def values(step_losses):
    return {name: value.item() for name, value in step_losses.items()}


def weights(trainer):
    return copy.deepcopy(trainer.model.state_dict())


# accumulation


def test_parts_of_equal_counts_make_the_whole_batch(folder):
    """Each part has the same image, so the same count of positives."""
    found = []
    for parts in (1, 2, 4):
        run = trainer(folder, schedule__accumulate=parts)
        (images, targets), _ = batches(run, 2)
        steps = [values(take_step(run, images[:1] * 4, targets[:1] * 4)) for _ in range(2)]
        found.append((steps, weights(run)))
    for steps, model in found[1:]:
        for a, b in zip(steps, found[0][0], strict=True):
            assert a == pytest.approx(b, rel=1e-5)
        for key, value in model.items():
            torch.testing.assert_close(value, found[0][1][key], rtol=1e-4, atol=1e-6)


def test_else_the_loss_is_the_mean_of_the_parts(folder):
    run = trainer(folder, schedule__accumulate=2)
    (images, targets), _ = batches(run, 2)
    assert len(images) == 4
    run.model.set_epoch(0)
    parts = [values(run.model(images[i : i + 2], targets[i : i + 2])) for i in (0, 2)]
    whole = values(run.model(images, targets))
    stepped = values(take_step(run, images, targets))
    for name in whole:
        assert stepped[name] == pytest.approx((parts[0][name] + parts[1][name]) / 2, rel=1e-5)
    assert stepped["bbox_regression"] != pytest.approx(whole["bbox_regression"], rel=1e-4)


def test_a_short_last_batch_has_fewer_parts(folder):
    run = trainer(folder, schedule__accumulate=4)  # 7 images: 4, then 3
    run.run()
    assert [entry["iteration"] for entry in losses(folder / "run")] == [1, 2, 3, 4]


def test_too_many_parts(folder):
    with pytest.raises(ValueError, match="1 processes x 5 parts an image, got 4"):
        trainer(folder, schedule__accumulate=5)


# averages


def test_averages_follow_the_formula(folder):
    run = trainer(folder, schedule__ema=0.5)
    key = "head.cls_logits.weight"
    expected = run.model.state_dict()[key].double().clone()
    for n, batch in enumerate(batches(run, 3), 1):
        take_step(run, *batch)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * run.model.state_dict()[key].double()
    torch.testing.assert_close(run.stepper.average.model.state_dict()[key].double(), expected, rtol=1e-5, atol=1e-9)


def test_averages_are_what_is_evaluated(folder):
    run = trainer(folder, schedule__ema=0.5, schedule__lr=0.01)
    reported = run.run()
    state = load_checkpoint(folder / "run" / "checkpoint.pt")
    assert_same(trained_weights(state), dict(run.stepper.average.model.state_dict()))
    assert not torch.equal(trained_weights(state)["head.cls_logits.bias"], state["model"]["head.cls_logits.bias"])
    assert_same(state["model"], dict(run.model.state_dict()))
    assert evaluate_checkpoint(folder / "run" / "checkpoint.pt") == pytest.approx(reported, nan_ok=True)


def test_counters_are_copied_and_other_models_refused():
    model = torch.nn.BatchNorm1d(2)
    average = WeightAverage(model, 0.0)
    model(torch.rand(4, 2))
    average.update()
    assert_same(average.model.state_dict(), model.state_dict())  # a decay of 0 is no average
    assert model.num_batches_tracked == 1 and model.training and not average.model.training
    with pytest.raises(RuntimeError, match="Missing key"):
        average.load_state_dict({"updates": 1, "weights": {}})
    with pytest.raises(ValueError, match="decay must be in .*, got 1"):
        WeightAverage(model, 1.0)


# precision


@pytest.mark.parametrize("name", ["fcos_minus_r50_mlc", "retinanet_r50_mlc", "rpn_r50_mlc"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near_single(folder, name, precision):
    found = {}
    for kind in ("fp32", precision):
        run = trainer(folder, name, schedule__precision=kind)
        found[kind] = values(take_step(run, *batches(run, 1)[0]))
        assert {p.dtype for p in run.model.parameters()} == {torch.float32}
        assert all(value.isfinite().all() for value in run.model.state_dict().values())
    assert found[precision] == pytest.approx(found["fp32"], rel=0.05)
    assert found[precision]["loss"] != found["fp32"]["loss"]


def test_an_overflow_under_a_loss_scale_is_skipped_and_no_error(folder):
    run = trainer(folder, schedule__precision="fp16")
    run.stepper.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before, optimizer = weights(run), copy.deepcopy(run.stepper.optimizer.state_dict())
    step = values(take_step(run, *batches(run, 1)[0]))
    assert step["loss"] > 0 and step["grad_norm"] != pytest.approx(step["grad_norm"], rel=1)  # not finite
    assert_same(dict(run.model.state_dict()), dict(before))
    assert_same(run.stepper.optimizer.state_dict()["state"], optimizer["state"])
    assert run.stepper.scaler.get_scale() == 2.0**39
    run.save()  # no NonFiniteLoss
    run.stepper.scaler.update(1024.0)
    take_step(run, *batches(run, 1)[0])
    assert any(not torch.equal(value, before[key]) for key, value in run.model.state_dict().items())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_skipped_step_changes_nothing(folder, optimizer):
    """Not even the first, before which torch's SGD has no momentum."""
    run = trainer(folder, schedule__optimizer=optimizer)
    first, second = batches(run, 2)
    run.stepper.guard.observe = lambda *_: torch.ones(())
    before = weights(run)
    take_step(run, *first)
    assert_same(dict(run.model.state_dict()), dict(before))
    del run.stepper.guard.observe
    run.iteration = 0
    take_step(run, *second)
    fresh = trainer(folder, schedule__optimizer=optimizer)
    take_step(fresh, *second)
    for key, value in fresh.model.state_dict().items():
        torch.testing.assert_close(run.model.state_dict()[key], value, rtol=1e-6, atol=1e-8)


# what is not finite


def poison(monkeypatch, at, value="loss"):
    """The loss, or only its gradient, is not finite in the step of that iteration, counted from 0."""
    from mlc_ext.detectors.models.fcos import FCOS

    whole, calls = FCOS.losses, iter(range(99))

    def losses(self, outputs, *rest):
        found = whole(self, outputs, *rest)
        if next(calls) == at:
            x = outputs["cls_logits"].sum()
            bad = x * float("nan") if value == "loss" else _Spoilt.apply(x)
            found["classification"] = found["classification"] + bad
        return found

    monkeypatch.setattr(FCOS, "losses", losses)


class _Spoilt(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 0

    @staticmethod
    def backward(ctx, grad):
        return grad * float("inf")


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_not_finite_never_reaches_the_weights(folder, monkeypatch, what, precision):
    """The sixth step is bad; the checkpoint due after it asks before the log entry of iteration 8 does."""
    out = folder / f"{what}{precision}"
    settings = {"run__log_every": 8, "run__save_every": 2, "schedule__precision": precision}
    saved, seen = [], []
    run = Trainer(config_of("fcos_minus_r50_mlc", out, data__generated_images=32, **settings), progress=False)
    step, save = run.stepper.step, run.save

    def spy(iteration, images, *rest):
        seen.append((images, weights(run)))
        return step(iteration, images, *rest)

    run.stepper.step, run.save = spy, lambda: (saved.append(run.iteration), save())
    poison(monkeypatch, 5, what)
    with pytest.raises(RuntimeError, match=rf"^{what}s? (is|are) not finite at iteration 6: .*saved in {out}/nonf"):
        run.run()
    assert saved == [2, 4, 6] and run.iteration == 6
    assert load_checkpoint(out / "checkpoint.pt")["iteration"] == 4
    before = seen[5][1]
    assert_same(dict(run.model.state_dict()), dict(before))
    found = torch.load(out / "nonfinite.pt", weights_only=True)
    assert found["iteration"] == 6
    assert_same(found["images"], seen[5][0])
    assert_same(found["model"], dict(before))
    assert found["image_ids"] == [target["image_id"] for target in found["targets"]] and len(found["image_ids"]) == 4


def test_later_steps_of_the_window_leave_the_weights_alone(folder, monkeypatch):
    out = folder / "window"
    run = Trainer(config_of("fcos_minus_r50_mlc", out, run__log_every=8, data__generated_images=32), progress=False)
    poison(monkeypatch, 5)
    with pytest.raises(RuntimeError, match="loss is not finite at iteration 6: .*nan"):
        run.run()
    assert run.iteration == 8 and not [entry for entry in history(out) if "loss" in entry]
    last = weights(run)
    again = Trainer(config_of("fcos_minus_r50_mlc", folder / "again", data__generated_images=32), progress=False)
    for batch in list(again.loader)[:5]:
        take_step(again, *batch)
    assert_same(dict(last), dict(again.model.state_dict()))
    with pytest.raises(RuntimeError, match="not finite at iteration 6"):
        run.save()


def test_a_loss_scale_does_not_hide_a_bad_loss(folder, monkeypatch):
    run = trainer(folder, schedule__precision="fp16", run__log_every=2)
    poison(monkeypatch, 0)
    before = weights(run)
    with pytest.raises(RuntimeError, match="loss is not finite at iteration 1"):
        run.run()
    assert_same(dict(run.model.state_dict()), dict(before))


# layout, compilation, switches


def test_layout_and_compilation_change_no_result(folder):
    found = {}
    for kind, settings in {
        "plain": {"run__channels_last": False},
        "channels_last": {},
        "compiled": {"run__channels_last": False, "run__compile": "eager"},
    }.items():
        run = trainer(folder, **settings)
        found[kind] = [values(take_step(run, *batch)) for batch in batches(run, 2)]
        names = list(run.model.state_dict())
        assert names == list(found.setdefault("names", names))
        if kind == "channels_last":
            conv = next(m for m in run.model.backbone.modules() if isinstance(m, torch.nn.Conv2d))
            assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    for kind in ("channels_last", "compiled"):
        for a, b in zip(found[kind], found["plain"], strict=True):
            assert a == pytest.approx(b, rel=1e-4)


@pytest.mark.slow
def test_compile_option(folder):
    settings = {"data__generated_images": 8}  # no shorter batch, which would be compiled once more
    code, _, error = finish(start(folder, "--epochs", 1, "--compile", "--out", "compiled", **settings), 900)
    assert code == 0, error
    code, _, error = finish(start(folder, "--epochs", 1, "--out", "plain", **settings))
    assert code == 0, error
    for a, b in zip(losses(folder / "compiled"), losses(folder / "plain"), strict=True):
        assert a == pytest.approx(b, rel=1e-3)


def test_switches(folder):
    run = trainer(folder, run__deterministic=True, run__tf32=False)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cuda.matmul.fp32_precision == torch.backends.cudnn.conv.fp32_precision == "ieee"
    run.run()
    trainer(folder, run__tf32=True)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cuda.matmul.fp32_precision == torch.backends.cudnn.conv.fp32_precision == "tf32"


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("schedule.precision", "fp8", "schedule.precision must be one of 'fp32', 'bf16', 'fp16', got 'fp8'"),
        ("schedule.ema", 1, "schedule.ema must be in [0, 1) or None, got 1.0"),
        ("schedule.accumulate", 0, "schedule.accumulate must be at least 1, got 0"),
        ("run.save_every", 0, "run.save_every must be at least 1 or None, got 0"),
        ("run.keep_checkpoints", 0, "run.keep_checkpoints must be at least 1, got 0"),
        ("run.log_every", 0, "run.log_every must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range(setting, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        override(Config(), setting, value)


def test_an_unknown_compiler_is_refused_before_the_first_step():
    with pytest.raises(ValueError, match="run.compile must be one of .*'inductor'.* or None, got 'inductr'"):
        precision.prepare(torch.nn.Linear(1, 1), RunConfig(compile="inductr", channels_last=False))


# draws and waits


def test_draws_of_an_image_do_not_depend_on_its_batch():
    mask = torch.ones(3, 500, dtype=torch.bool)

    def drawn(seeds):
        with draws_by_image(seeds):
            return [sample_at_most(mask[: len(seeds)], 20, 20) for _ in range(2)]

    first, second = drawn([5, 6, 7])
    assert not torch.equal(first, second) and not torch.equal(first[0], first[1])
    for whole, alone in zip((first, second), drawn([6]), strict=True):
        assert torch.equal(whole[1], alone[0])
    assert (first.sum(1) == 20).all()
    torch.manual_seed(0)
    outside = sample_at_most(mask, 20, 20)
    torch.manual_seed(0)
    drawn([1])
    assert torch.equal(outside, sample_at_most(mask, 20, 20))  # the global generator is untouched within


class Waits(TorchDispatchMode):
    """Where a tensor's value is asked for: what would make the host wait for a GPU."""

    ASKING = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal", "aten::masked_select")

    def __init__(self):
        super().__init__()
        self.places = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name().split(".")[0] in self.ASKING:
            frames = [f for f in traceback.extract_stack() if "/detectors/" in f.filename or "/mlc_ext/" in f.filename]
            self.places.add((frames[-1].filename.rsplit("/", 1)[1], frames[-1].name))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("settings", [{}, {"schedule__precision": "fp16"}])
def test_a_step_asks_for_no_value(folder, settings):
    """But for checks of the targets, which lie on the CPU."""
    run = trainer(folder, schedule__ema=0.9, schedule__accumulate=2, **settings)
    first, second = batches(run, 2)
    take_step(run, *first)  # the loss scale is made by the first step
    with Waits() as waits:
        take_step(run, *second)
    on_cpu = {("targets.py", "_check_values"), ("targets.py", "prepare_targets")}
    assert waits.places <= on_cpu, waits.places - on_cpu
    with Waits() as waits:
        run.stepper.guard.first_bad_step()
    assert waits.places == {("nonfinite.py", "first_bad_step")}
