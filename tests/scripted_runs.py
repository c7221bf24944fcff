"""Runs whose evaluations are written down instead of computed."""

from __future__ import annotations

from small_runs import config_of

from mlc_ext.detectors.engine import trainer as trainer_module
from mlc_ext.detectors.engine.trainer import Trainer


def scripted(monkeypatch, values):
    """Evaluations that return AP from a list instead of running; what a resumed run evaluates again is the same."""
    monkeypatch.setattr(trainer_module, "validate", lambda config, model, *_, **__: {"AP": values[round(model.epoch)]})


VALUES = [None, 0.1, 0.3, 0.2, 0.3, 0.25, 0.4, 0.1, 0.1]
"""AP after epoch 1, 2, ..."""


def run_of(out, epochs=8, **settings):
    options = {"run__eval_every": 1, "run__best_metric": "AP", "run__correlation": False} | settings
    return Trainer(config_of("fcos_minus_r50_mlc", out, epochs, **options), progress=False)
