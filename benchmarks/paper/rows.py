"""The rows of the paper's Tables 1-4, our ablations, the extension's and other assigners': what is trained, and the
paper's figures (COCO val2017, R50-FPN, 19 epochs)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

DETECTORS = ("fcos-", "retinanet", "rpn")
"""The baselines by which --detectors chooses rows; FCOS counts as FCOS-."""

SWITCH = 12
"""Where the first part ends: after so many of 19 epochs."""

NEVER = 1e6
"""As ``mlc.iur_start_epoch``: the IoU layer, which the shared first part has, is neither trained nor used."""


@dataclass(frozen=True)
class Stem:
    """A first part that several rows go on from, trained the baseline's way unless its settings differ."""

    detector: str
    settings: Mapping[str, object] = field(default_factory=dict)
    start: float = SWITCH
    """When mutual labeling begins, if it is on: after so many of 19 epochs."""


@dataclass(frozen=True)
class Row:
    """A method of a table: the stem that it goes on from and what is switched on then."""

    name: str
    stem: str
    settings: Mapping[str, object] = field(default_factory=dict)
    paper: Mapping[str, float] = field(default_factory=dict)
    """AP and AR in percent."""
    tested_from: str | None = None
    """A row whose trained detector is only tested with other settings here."""
    start: float | None = None
    """When mutual labeling begins, after so many of 19 epochs; None: as in the stem."""
    labels: str | None = None
    """Analysis: the one task, "cls" or "loc", whose labels are mutual; the other's are the baseline's."""


@dataclass(frozen=True)
class Table:
    title: str
    rows: tuple[str, ...]
    """The first of each detector is the one that the others are compared with."""
    metrics: tuple[str, ...]

    def part(self, detectors: Collection[str], rows: Collection[str] | None = None) -> Table:
        """The table with the rows of these detectors, and of them those in ``rows`` (None: all), alone."""
        kept = [row for row in self.rows if baseline(row) in detectors and (rows is None or row in rows)]
        return replace(self, rows=tuple(kept))


BASELINE = {"mlc.ml": False, "mlc.iur": True}
STEMS = {
    "fcos-": Stem("fcos-", BASELINE),
    "fcos": Stem("fcos", BASELINE),
    "retinanet": Stem("retinanet", BASELINE),
    "rpn": Stem("rpn", BASELINE),
    "fcos-_ml_early": Stem("fcos-", {**BASELINE, "mlc.ml": True, "mlc.iur_start_epoch": NEVER}, start=6),
    "fcos-_iou_early": Stem("fcos-", {**BASELINE, "mlc.iur_start_epoch": 0.0}),
}

OFF = {"mlc.iur_start_epoch": NEVER}
ML = {**OFF, "mlc.ml": True}
MLC = {"mlc.ml": True}
ALIGNED = {"mlc.metric": "alignment"}
CENTERNESS = {"model.detector": "fcos"}
PARTS = {"": ("", OFF), "_iur": (" + IUR", {}), "_mlc": (" + MLC", MLC)}
ASSIGNERS = {"atss": "ATSS", "task_aligned": "task-aligned", "sim_ota": "SimOTA", "paa": "PAA", "mal": "MAL"}
OF_ANCHORS = ("atss", "paa", "mal")
"""Assigners that choose among the anchors of an object, which can be the candidates of mutual labeling instead."""
ALL = {"mlc.candidates": "all"}

ROWS = {
    "fcos-": Row("FCOS-", "fcos-", OFF, {"correlation": 0.32, "AP": 34.5}),
    "fcos-_alignment": Row(
        "FCOS- + prediction alignment", "fcos-", {**OFF, "mlc.alignment": 1.0}, {"correlation": 0.42, "AP": 35.3}
    ),
    "fcos-_ml": Row("FCOS- + ML", "fcos-", ML, {"correlation": 0.48, "AP": 37.5}),
    "fcos": Row("FCOS- + centerness", "fcos", OFF, {"correlation": 0.33, "AP": 36.9}),
    "fcos-_iur": Row("FCOS- + IUR", "fcos-", {}, {"correlation": 0.50, "AP": 37.3}),
    "fcos-_iou_nms": Row("FCOS- + IoU-NMS", "fcos-", {"model.nms": "iou"}, {"AP": 32.6}, tested_from="fcos-_iur"),
    "fcos-_mlc": Row("FCOS- + MLC", "fcos-", MLC, {"AP": 38.7}),
    "retinanet": Row("RetinaNet", "retinanet", OFF, {"AP": 36.3}),
    "retinanet_ml": Row("RetinaNet + ML", "retinanet", ML, {"AP": 37.1}),
    "retinanet_iur": Row("RetinaNet + IUR", "retinanet", {}, {"AP": 37.4}),
    "retinanet_mlc": Row("RetinaNet + MLC", "retinanet", MLC, {"AP": 37.8}),
    "rpn": Row("RPN", "rpn", OFF, {"AR@100": 42.6, "AR@300": 51.3, "AR@1000": 57.2}),
    "rpn_ml": Row("RPN + ML", "rpn", ML, {"AR@100": 48.5, "AR@300": 54.6, "AR@1000": 58.6}),
    "rpn_iur": Row("RPN + IUR", "rpn", {}, {"AR@100": 45.0, "AR@300": 52.8, "AR@1000": 58.0}),
    "rpn_mlc": Row("RPN + MLC", "rpn", MLC, {"AR@100": 48.8, "AR@300": 55.1, "AR@1000": 58.6}),
    # what the paper leaves open, each away from our reading by one setting
    "fcos-_ml_own_levels": Row("ML, own levels", "fcos-", {**ML, "mlc.candidates": "own_levels"}),
    "fcos-_ml_all": Row("ML, all levels", "fcos-", {**ML, **ALL}),
    "fcos-_mlc_all": Row("MLC, all levels", "fcos-", {**MLC, **ALL}),
    "fcos-_ml_all_alpha1": Row("ML, all levels, alpha 1", "fcos-", {**ML, **ALL, "mlc.alpha": 1.0}),
    "fcos-_ml_all_alpha2": Row("ML, all levels, alpha 2", "fcos-", {**ML, **ALL, "mlc.alpha": 2.0}),
    "fcos-_ml_literal": Row("ML, objects that cannot be split drop out", "fcos-", {**ML, "mlc.degenerate": "literal"}),
    "fcos-_ml_gap05": Row("ML, min_gap 0.05", "fcos-", {**ML, "mlc.min_gap": 0.05}),
    "fcos-_ml_gap10": Row("ML, min_gap 0.1", "fcos-", {**ML, "mlc.min_gap": 0.1}),
    "fcos-_ml_bins": Row("ML, histograms of 256 bins", "fcos-", {**ML, "mlc.bins": 256}),
    "fcos-_ml_cls": Row("ML, classification labels only", "fcos-", ML, labels="cls"),
    "fcos-_ml_loc": Row("ML, localization labels only", "fcos-", ML, labels="loc"),
    "fcos-_ml_early": Row("ML from 6/19 on", "fcos-_ml_early"),
    "fcos-_ml_late": Row("ML from 15/19 on", "fcos-", ML, start=15),
    "fcos-_mlc_iou_early": Row("MLC, the IoU layer from the start", "fcos-_iou_early", MLC),
    "fcos-_iur_early": Row("IUR from the start", "fcos-_iou_early"),
    "fcos-_mlc_gamma025": Row("MLC, gamma 0.25", "fcos-", {**MLC, "mlc.gamma": 0.25}),
    "fcos-_mlc_gamma4": Row("MLC, gamma 4", "fcos-", {**MLC, "mlc.gamma": 4.0}),
    "fcos-_mlc_attached": Row(
        "MLC, the IoU loss trains the boxes too", "fcos-", {**MLC, "mlc.detach_iou_target": False}
    ),
    # centerness from the switch on, and its parts
    "fcos-_centerness": Row("FCOS- + centerness from the switch on", "fcos-", {**OFF, **CENTERNESS}),
    "fcos-_centerness_score": Row(
        "Score x centerness alone", "fcos-", {**OFF, **CENTERNESS, "model.centerness_weights": False}
    ),
    "fcos-_centerness_weights": Row(
        "Box loss weighted by centerness alone", "fcos-", {**OFF, "model.centerness_weights": True}
    ),
    "retinanet_ml_positives": Row("RetinaNet + ML, positives", "retinanet", {**ML, "mlc.candidates": "positives"}),
    "retinanet_ml_alpha0": Row("RetinaNet + ML, alpha 0", "retinanet", {**ML, "mlc.alpha": 0.0}),
    "retinanet_ml_alpha2": Row("RetinaNet + ML, alpha 2", "retinanet", {**ML, "mlc.alpha": 2.0}),
    "retinanet_ml_midpoint": Row("RetinaNet + ML, tau at the midpoint", "retinanet", {**ML, "mlc.tau": "midpoint"}),
    "rpn_ml_positives": Row("RPN + ML, positives", "rpn", {**ML, "mlc.candidates": "positives"}),
    "rpn_ml_alpha0": Row("RPN + ML, alpha 0", "rpn", {**ML, "mlc.alpha": 0.0}),
    # the extension
    **{
        f"fcos-_aligned{exponent}": Row(
            f"FCOS- + Otsu of S * I^{exponent}", "fcos-", {**ML, **ALIGNED, "mlc.alignment_exponent": float(exponent)}
        )
        for exponent in (1, 2, 4, 6, 8)
    },
    "fcos-_aligned_own_levels": Row("S * I^6, own levels", "fcos-", {**ML, **ALIGNED, "mlc.candidates": "own_levels"}),
    "fcos-_aligned_positives": Row("S * I^6, positives", "fcos-", {**ML, **ALIGNED, "mlc.candidates": "positives"}),
    "fcos-_aligned_iur": Row("S * I^6 + IUR", "fcos-", {**MLC, **ALIGNED}),
    "fcos_aligned": Row("S * I^6 + centerness", "fcos", {**ML, **ALIGNED}),
    "retinanet_aligned": Row("RetinaNet + S * I^6", "retinanet", {**ML, **ALIGNED}),
    "retinanet_aligned_alpha0": Row("RetinaNet + S * I^6, alpha 0", "retinanet", {**ML, **ALIGNED, "mlc.alpha": 0.0}),
    "rpn_aligned": Row("RPN + S * I^6", "rpn", {**ML, **ALIGNED}),
    # other rules of label assignment, from the switch on
    **{
        f"{detector}_{assigner}{part}": Row(
            f"{title}, {ASSIGNERS[assigner]}{added}", detector, {**settings, "model.assigner": assigner}
        )
        for detector, title, assigners in (("fcos-", "FCOS-", ASSIGNERS), ("retinanet", "RetinaNet", OF_ANCHORS))
        for assigner in assigners
        for part, (added, settings) in PARTS.items()
    },
    **{
        f"{detector}_{assigner}_mlc_all": Row(
            f"{title}, {ASSIGNERS[assigner]} + MLC, all candidates",
            detector,
            {**MLC, **ALL, "model.assigner": assigner},
        )
        for detector, title in (("fcos-", "FCOS-"), ("retinanet", "RetinaNet"))
        for assigner in OF_ANCHORS
    },
}

_CORRELATIONS = ("correlation", "correlation_pooled")
_DETECTION = (*_CORRELATIONS, "AP", "AP50", "AP75", "AR100")
_RELATED = ("AP", "AP75", *_CORRELATIONS)
_PROPOSALS = (*_CORRELATIONS, "AR@100", "AR@300", "AR@1000")
_TABLE_3 = (
    *("fcos-", "fcos-_ml", "fcos-_iur", "fcos-_mlc"),
    *("retinanet", "retinanet_ml", "retinanet_iur", "retinanet_mlc"),
)


def _with_prefix(*prefixes: str) -> tuple[str, ...]:
    """Rows that the paper does not have, by the beginning of their keys."""
    return tuple(key for key, row in ROWS.items() if key.startswith(prefixes) and not row.paper)


def _with_assigners(detector: str) -> tuple[str, ...]:
    """The detector's own rule and the others, each alone, with IoU rescoring and with both parts."""
    names = ("", *(f"_{assigner}" for assigner in ASSIGNERS))
    keys = (f"{detector}{name}{part}" for name in names for part in PARTS)
    return tuple(key for key in keys if key in ROWS)


def _with_all_candidates() -> tuple[str, ...]:
    """Mutual labeling over other rules: of the rule's positives, and of all anchors that it chooses among."""
    return tuple(
        f"{detector}{name}"
        for detector in ("fcos-", "retinanet")
        for name in ("", *(f"_{assigner}_mlc{end}" for assigner in OF_ANCHORS for end in ("", "_all")))
    )


TABLES = {
    "1": Table("Mutual learning", ("fcos-", "fcos-_alignment", "fcos-_ml"), _DETECTION),
    "2": Table("IoU rescoring", ("fcos-", "fcos", "fcos-_iur", "fcos-_iou_nms"), _DETECTION),
    "3": Table("Both parts", _TABLE_3, _DETECTION),
    "4": Table("Region proposals", ("rpn", "rpn_ml", "rpn_iur", "rpn_mlc"), _PROPOSALS),
    "sizes": Table("AP by object size", ("fcos", *_TABLE_3), ("AP", "APs", "APm", "APl", "AP50", "AP75")),
    "ablations": Table(
        "One setting away from the readings, rates and first parts the same",
        (
            *("fcos-", "fcos-_ml", "fcos-_iur", "fcos-_mlc", *_with_prefix("fcos-_ml", "fcos-_mlc", "fcos-_iur")),
            *("retinanet", "retinanet_ml", *_with_prefix("retinanet_ml")),
        ),
        _DETECTION,
    ),
    "centerness": Table(
        "Centerness from the start, and from the switch on",
        ("fcos-", "fcos", *_with_prefix("fcos-_centerness"), "fcos-_iur", "fcos-_mlc"),
        _DETECTION,
    ),
    "ablations_rpn": Table(
        "RPN, one setting away from the readings", ("rpn", "rpn_ml", *_with_prefix("rpn_ml")), _PROPOSALS
    ),
    "extension": Table(
        "One cut of the alignment (not the paper's method)",
        (
            *("fcos-", "fcos", "fcos-_ml", "fcos-_mlc", *_with_prefix("fcos-_aligned", "fcos_aligned")),
            *("retinanet", "retinanet_ml", *_with_prefix("retinanet_aligned")),
        ),
        _DETECTION,
    ),
    "extension_rpn": Table(
        "RPN: one cut of the alignment", ("rpn", "rpn_ml", *_with_prefix("rpn_aligned")), _PROPOSALS
    ),
    "extension_related": Table(
        "One cut of the alignment (not the paper's method) and other rules of label assignment",
        (
            *("fcos-", "fcos-_iur", "fcos-_ml", "fcos-_mlc", "fcos-_aligned6", "fcos-_aligned_iur"),
            *(f"fcos-_{assigner}{part}" for assigner in ASSIGNERS for part in ("", "_iur")),
        ),
        _RELATED,
    ),
    "related": Table("Other rules of label assignment", _with_assigners("fcos-"), _RELATED),
    "related_retinanet": Table("RetinaNet, other rules of label assignment", _with_assigners("retinanet"), _RELATED),
    "related_candidates": Table("Other rules, which candidates are split", _with_all_candidates(), _RELATED),
}


def baseline(row: str) -> str:
    """The row that ``row`` is compared with: its detector without the method. Centerness is an addition to FCOS-."""
    return {"fcos": "fcos-"}.get(ROWS[row].stem, STEMS[ROWS[row].stem].detector)
