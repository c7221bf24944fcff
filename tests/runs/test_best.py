"""The best checkpoint: by the history, over resumed runs, and what the programs do with it."""

from __future__ import annotations

import math
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scripted_runs import VALUES, run_of, scripted
from small_runs import assert_same

import mlc_ext.detectors
from mlc_ext.detectors import evaluate, export, predict, report
from mlc_ext.detectors.config.sections.run import BOX_METRICS, PROPOSAL_METRICS
from mlc_ext.detectors.engine import trainer as trainer_module
from mlc_ext.detectors.evaluation.coco_metrics import CocoEvaluator, ProposalEvaluator
from mlc_ext.detectors.initialization.own import from_run
from mlc_ext.detectors.report import make_report
from mlc_ext.detectors.runs.best import Evaluation, best_of, evaluations, without_improvement
from mlc_ext.detectors.runs.checkpoint import load_checkpoint
from mlc_ext.detectors.runs.history import read_runs
from mlc_ext.detectors.runs.load import load_for_evaluation, load_trained

pytestmark = pytest.mark.usefixtures("in_folder")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("best")


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3, math.nan, None])))
def test_the_first_of_the_best(values):
    entries = [{"iteration": k, "epoch": 0.0, "loss": 1.0} for k in range(len(values))]
    entries += [{"iteration": 5 * k, "metrics": {"AP": value, "AP50": 0.0}} for k, value in enumerate(values)]
    found = evaluations(entries, "AP")
    numbers = [-1.0 if value is None or math.isnan(value) else value for value in values]
    if max(numbers, default=-1.0) < 0:
        assert best_of(found) is None and without_improvement(found) == 0  # no evidence that training does not help
        return
    first = numbers.index(max(numbers))
    assert best_of(found) == Evaluation(5 * first, numbers[first])
    assert without_improvement(found) == len(values) - 1 - first
    for begin in range(len(values)):
        counted = [k for k in range(len(values)) if k > first and k > begin]
        assert without_improvement(found, 5 * begin) == len(counted)
    assert best_of(evaluations(entries, "AR1")) is None


def test_an_iteration_that_is_evaluated_again_counts_once():
    entries = [{"iteration": k, "metrics": {"AP": value}} for k, value in ((2, 0.5), (4, 0.1), (4, 0.2))]
    assert evaluations(entries, "AP") == [(2, 0.5), (4, 0.2)] and without_improvement(evaluations(entries, "AP")) == 1


def test_an_undefined_metric_ends_nothing(folder, monkeypatch, caplog):
    """APs without small objects, for example: reported, and all epochs are trained."""
    scripted(monkeypatch, [math.nan] * 9)
    out = folder / "undefined"
    trainer = run_of(out, 4, run__patience=1)
    trainer.run()
    assert trainer.iteration == 8 and not (out / "best.pt").exists()
    assert caplog.text.count("run.best_metric=AP is undefined") == 1
    assert trainer.ending() == ["no best evaluation: AP is undefined on the validation images"]


def test_best_pt_is_the_checkpoint_of_its_iteration(folder, monkeypatch):
    scripted(monkeypatch, VALUES)
    out = folder / "equal"
    run_of(out, 3, run__keep_checkpoints=9, schedule__ema=0.9).run()
    best, same = (load_checkpoint(out / name) for name in ("best.pt", "checkpoint.1.pt"))
    assert best["iteration"] == same["iteration"] == 4
    for key in ("model", "optimizer", "ema", "loader", "config", "categories"):
        assert_same(best[key], same[key], key)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("elsewhere", [True, False])
def test_the_best_is_kept_over_a_resume(folder, monkeypatch, kept, elsewhere):
    """Stopped after an evaluation that was not the best; the run goes on in its folder, or in another one."""
    scripted(monkeypatch, VALUES)
    first = folder / f"first{kept}{elsewhere}"
    out = folder / f"second{kept}{elsewhere}" if elsewhere else first
    assert run_of(first).run(until=7) == {}
    assert load_checkpoint(first / "best.pt")["iteration"] == 4
    if not kept:
        (first / "best.pt").unlink()
    again = run_of(out)
    again.resume(first / "checkpoint.pt")
    assert again.run(until=10) == {}
    assert (out / "best.pt").is_file() == kept  # 0.3 again is no better one
    if kept:
        assert load_checkpoint(out / "best.pt")["iteration"] == 4
    else:
        assert again.ending() == ["best evaluation: AP 30.0 at iteration 4"]
        assert "the checkpoint of the best evaluation (AP 30.0 at iteration 4) is gone" in (out / "log.txt").read_text()
    last = run_of(out)
    last.resume("auto")
    last.run()
    assert load_checkpoint(out / "best.pt")["iteration"] == 12


def test_a_kill_between_the_checkpoint_and_best_pt(folder, monkeypatch):
    scripted(monkeypatch, VALUES)
    out = folder / "killed"
    run_of(out).run(until=5)
    os.unlink(out / "best.pt")
    again = run_of(out)
    again.resume(out / "checkpoint.1.pt")  # of iteration 4, with its evaluation
    assert again.iteration == 4
    again.run(until=5)
    assert load_checkpoint(out / "best.pt")["iteration"] == 4


def test_one_of_a_later_iteration_is_put_aside(folder, monkeypatch):
    """A run that goes back to an earlier checkpoint may not end with the best of what it has not trained."""
    scripted(monkeypatch, VALUES)
    out = folder / "back"
    run_of(out, 2, run__keep_checkpoints=9).run()
    again = run_of(out, 2, run__best_metric=None)
    again.resume(out / "checkpoint.pt")
    again.run()
    assert not (out / "best.pt").exists() and load_checkpoint(out / "earlier" / "best.pt")["iteration"] == 4
    assert again.ending() == []
    run_of(out, 1).run()  # a new run: all of the old one's
    assert {path.name for path in (out / "earlier.1").iterdir()} >= {"checkpoint.pt", "checkpoint.1.pt"}
    assert load_checkpoint(out / "best.pt")["iteration"] == 2


def test_going_back_to_the_best_of_an_earlier_time_keeps_the_later_one(folder, monkeypatch):
    """From the second evaluation, the best until then, while best.pt is of the third one."""
    scripted(monkeypatch, [None, 0.1, 0.2, 0.3])
    out = folder / "branch"
    run_of(out, 3, run__keep_checkpoints=9).run()
    again = run_of(out, 3)
    again.resume(out / "checkpoint.1.pt")
    again.run(until=5)
    assert load_checkpoint(out / "best.pt")["iteration"] == 4
    assert load_checkpoint(out / "earlier" / "best.pt")["iteration"] == 6


def test_predictions_from_a_folder_are_the_bests(folder, monkeypatch, caplog):
    scripted(monkeypatch, VALUES)
    out = folder / "predicting"
    run_of(out, 3).run()
    assert load_trained(out)[0] == out / "best.pt" and load_trained(out / "checkpoint.pt")[1]["iteration"] == 6
    weights = load_checkpoint(out / "best.pt")["model"]
    predictor = mlc_ext.detectors.load(out, "cpu")
    assert all(torch.equal(value, weights[name]) for name, value in predictor.model.state_dict().items())
    (out / "best.pt").write_text("damaged")
    path, state = load_trained(out)
    assert path == out / "checkpoint.pt" and state["iteration"] == 6
    assert "best.pt is no readable checkpoint" in caplog.text and "the newest checkpoint is used" in caplog.text


def test_the_programs_agree_on_the_checkpoint_of_a_folder(folder, capsys, monkeypatch):
    """A real run whose first evaluation is kept as the best one: evaluate, export, report and --init take it."""
    pytest.importorskip("matplotlib")
    out = folder / "agree"
    real, values = trainer_module.validate, [0.9, 0.1]

    def validate(*arguments, **options):
        return real(*arguments, **options) | {"AP": values.pop(0)}

    monkeypatch.setattr(trainer_module, "validate", validate)
    run_of(out, 2, run__correlation=True).run()
    best = load_checkpoint(out / "best.pt")
    assert best["iteration"] == 2 and load_checkpoint(out / "checkpoint.pt")["iteration"] == 4
    assert load_for_evaluation(out, device="cpu").iteration == 2
    assert from_run(out)[0] == out / "best.pt"
    (run,) = read_runs([out])
    assert run.metrics["AP"] == 0.1  # the last one, as nothing is known of the checkpoint
    page, _ = make_report([run], device="cpu", images=1)
    assert run.metrics["AP"] == 0.9 and run.source == "metrics.jsonl, iteration 2"
    assert "best.pt of iteration 2 on" in page
    for program in (evaluate, export, predict):
        assert "best.pt" in " ".join(help_of(program, capsys).split())
    assert "best.pt" in report.__doc__


def help_of(program, capsys) -> str:
    with pytest.raises(SystemExit):
        program.parse(["--help"])
    return capsys.readouterr().out


def test_the_names_are_those_of_the_evaluators():
    class Data:
        label_to_category = {1: 1}

        def ground_truth(self):
            return {"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}

    assert tuple(CocoEvaluator(Data()).summarize()) == BOX_METRICS
    assert tuple(ProposalEvaluator(Data()).summarize()) == PROPOSAL_METRICS
