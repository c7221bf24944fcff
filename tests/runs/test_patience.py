"""Early stopping (run.patience): when it begins, over resumed runs, comparisons and several processes."""

from __future__ import annotations

import pytest
from scripted_runs import VALUES, run_of, scripted
from small_runs import finish, history, start, train_here

from mlc_ext.detectors.engine import trainer as trainer_module
from mlc_ext.detectors.runs.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("in_folder")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("patience")


# a tie is no better one
@pytest.mark.parametrize(("patience", "epochs", "best"), [(None, 8, 6), (4, 8, 6), (3, 5, 2), (1, 3, 2)])
def test_the_best_is_kept_and_patience_ends_the_run(folder, monkeypatch, patience, epochs, best):
    scripted(monkeypatch, VALUES)
    out = folder / f"patience{patience}"
    trainer = run_of(out, run__patience=patience)
    assert trainer.run() == {"AP": VALUES[epochs]}
    assert trainer.iteration == 2 * epochs
    assert load_checkpoint(out / "best.pt")["iteration"] == 2 * best
    assert load_checkpoint(out / "checkpoint.pt")["iteration"] == 2 * epochs
    lines = trainer.ending()
    assert lines[-1] == f"best evaluation: AP {100 * VALUES[best]:.1f} at iteration {2 * best}, in {out / 'best.pt'}"
    early = f"ended early at iteration {2 * epochs} of 16: no better AP in {patience} evaluations (run.patience)"
    assert lines[:-1] == ([early] if epochs < 8 else [])
    log = (out / "log.txt").read_text()
    assert (early in log) == (epochs < 8) and f"AP 30.0 at iteration 4): written to {out / 'best.pt'}" in log


@pytest.mark.parametrize(
    ("mlc", "epochs"),
    [
        ({}, 4),  # TINY's start, 0.5
        ({"start_epoch": 4}, 6),  # the evaluation at epoch 4 is of the baseline
        ({"start_epoch": 2, "iur_start_epoch": 4.5}, 6),
        ({"start_epoch": 4, "iur_start_epoch": 0}, 6),
        ({"start_epoch": 8}, 4),  # never in 8 epochs
        ({"start_epoch": 4, "ml": False, "iur": False}, 4),
        ({"start_epoch": 4, "ml": False, "iur_start_epoch": 0}, 4),
    ],
)
def test_patience_begins_when_the_method_has_started(folder, monkeypatch, mlc, epochs):
    scripted(monkeypatch, [None, 0.1, 0.3, *[0.2] * 6])
    out = folder / f"method{len(mlc)}{'_'.join(map(str, mlc.values()))}"
    settings = {f"mlc__{name}": value for name, value in mlc.items()}
    trainer = run_of(out, run__patience=2, **settings)
    trainer.run()
    assert trainer.iteration == 2 * epochs and load_checkpoint(out / "best.pt")["iteration"] == 4


def test_settings_are_refused_before_the_data_are_read(folder, monkeypatch):
    monkeypatch.setattr(trainer_module, "build_datasets", None)
    with pytest.raises(ValueError, match=r"run.patience=2 needs run.eval_every"):
        run_of(folder / "early", run__patience=2, run__eval_every=None)
    with pytest.raises(ValueError, match=r"schedule.kind=cosine has no schedule.milestones"):
        run_of(folder / "early", schedule__kind="cosine", schedule__milestones=(1.0,))


def test_a_resumed_run_that_had_ended_is_not_trained_on(folder, monkeypatch):
    scripted(monkeypatch, VALUES)
    out = folder / "ended"
    run_of(out, run__patience=1).run()
    entries, best = history(out), (out / "best.pt").read_bytes()
    again = run_of(out, run__patience=1)
    again.resume("auto")
    assert again.run() == {"AP": VALUES[3]} and again.iteration == 6
    assert again.ending()[0] == (
        "not trained on, the run had ended at iteration 6 of 16: no better AP in 1 evaluations (run.patience)"
    )
    assert history(out) == entries and (out / "best.pt").read_bytes() == best
    longer = run_of(out, run__patience=4)
    longer.resume("auto")
    longer.run()
    assert longer.iteration == 16 and load_checkpoint(out / "best.pt")["iteration"] == 12


def test_a_comparison_trains_both_to_the_end(folder, monkeypatch, capsys):
    """--compare: the same steps. The baseline would end before the method starts."""
    scripted(monkeypatch, [None, 0.3, 0.1, 0.1, 0.1])
    settings = {"run.eval_every": 1, "run.best_metric": "AP", "run.patience": 1, "mlc.start_epoch": 2}
    code, out, error = train_here(capsys, "--epochs", 4, "--compare", "--out", "compared", **settings)
    assert code == 0 and "ended early" not in out
    assert error.count("run.patience is ignored: --compare trains both for the same number of steps") == 1
    assert [load_checkpoint(path)["iteration"] for path in sorted((folder / "compared").glob("*/checkpoint.pt"))] == [
        8,
        8,
    ]


def test_the_program_names_it(folder, monkeypatch, capsys):
    scripted(monkeypatch, VALUES)
    settings = {"run.eval_every": 1, "run.best_metric": "AP", "run.patience": 1}
    code, out, _ = train_here(capsys, "--epochs", 8, "--out", "named", **settings)
    assert code == 0 and "ended early at iteration 6 of 16" in out
    assert "best evaluation: AP 30.0 at iteration 4, in named/best.pt" in out
    assert "results: named (best.pt, checkpoint.pt, metrics.json, log.txt)" in out
    assert "evaluate named/best.pt" in out


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("fcos_minus_r50", {"run.best_metric": "AR@100"}, "run.best_metric=AR@100 is no metric that model.detector"),
        ("rpn_r50", {"run.best_metric": "AP"}, "run.best_metric=AP is no metric that model.detector='rpn'"),
        ("rpn_r50", {"run.patience": 2, "run.eval_every": 1}, "run.patience=2 needs run.best_metric, got None"),
        ("rpn_r50", {"run.patience": 2, "run.best_metric": "ARs"}, "run.patience=2 needs run.eval_every, got None"),
    ],
)
def test_settings_that_do_not_fit(folder, capsys, name, settings, message):
    code, _, error = train_here(capsys, "--out", "refused", name=name, **settings)
    assert code == 2 and message in error and error.count("\n") == 1


def test_two_processes_end_together(folder):
    settings = {"run.eval_every": 1, "run.best_metric": "AP", "run.patience": 1, "schedule.lr": 1e-9}
    code, out, error = finish(start(folder, "--epochs", 5, "--out", "two", ranks=2, **settings))
    assert code == 0, error
    assert "ended early at iteration 4 of 10" in out
    assert load_checkpoint(folder / "two" / "best.pt")["iteration"] == 2
