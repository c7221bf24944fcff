"""The rows of the paper's Tables 1-4 and our ablations: what is trained, and the paper's figures (COCO val2017,
R50-FPN, 19 epochs)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stem:
    """A first part, trained the baseline's way up to the switch, that several rows go on from."""

    detector: str
    settings: Mapping[str, object]
    switch: int = 12
    """Where the part ends and mutual labeling may begin: after so many of 19 epochs."""


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


@dataclass(frozen=True)
class Table:
    title: str
    rows: tuple[str, ...]
    """The first of each detector is the one that the others are compared with."""
    metrics: tuple[str, ...]


STEMS = {
    "fcos-": Stem("fcos-", {"mlc.ml": False, "mlc.iur": False}),
    "fcos-_iou": Stem("fcos-", {"mlc.ml": False, "mlc.iur": True}),
    "fcos": Stem("fcos", {"mlc.ml": False, "mlc.iur": False}),
    "retinanet": Stem("retinanet", {"mlc.ml": False, "mlc.iur": False}),
    "retinanet_iou": Stem("retinanet", {"mlc.ml": False, "mlc.iur": True}),
    "rpn": Stem("rpn", {"mlc.ml": False, "mlc.iur": False}),
    "rpn_iou": Stem("rpn", {"mlc.ml": False, "mlc.iur": True}),
    "fcos-_early": Stem("fcos-", {"mlc.ml": False, "mlc.iur": False}, switch=6),
}

ML = {"mlc.ml": True}
ROWS = {
    "fcos-": Row("FCOS-", "fcos-", paper={"correlation": 0.32, "AP": 34.5}),
    "fcos-_alignment": Row(
        "FCOS- + prediction alignment", "fcos-", {"mlc.alignment": 1.0}, paper={"correlation": 0.42, "AP": 35.3}
    ),
    "fcos-_ml": Row("FCOS- + ML", "fcos-", ML, paper={"correlation": 0.48, "AP": 37.5}),
    "fcos": Row("FCOS- + centerness", "fcos", paper={"correlation": 0.33, "AP": 36.9}),
    "fcos-_iur": Row("FCOS- + IUR", "fcos-_iou", paper={"correlation": 0.50, "AP": 37.3}),
    "fcos-_iou_nms": Row(
        "FCOS- + IoU-NMS", "fcos-_iou", {"model.nms": "iou"}, paper={"AP": 32.6}, tested_from="fcos-_iur"
    ),
    "fcos-_mlc": Row("FCOS- + MLC", "fcos-_iou", ML, paper={"AP": 38.7}),
    "retinanet": Row("RetinaNet", "retinanet", paper={"AP": 36.3}),
    "retinanet_ml": Row("RetinaNet + ML", "retinanet", ML, paper={"AP": 37.1}),
    "retinanet_iur": Row("RetinaNet + IUR", "retinanet_iou", paper={"AP": 37.4}),
    "retinanet_mlc": Row("RetinaNet + MLC", "retinanet_iou", ML, paper={"AP": 37.8}),
    "rpn": Row("RPN", "rpn", paper={"AR@100": 42.6, "AR@300": 51.3, "AR@1000": 57.2}),
    "rpn_ml": Row("RPN + ML", "rpn", ML, paper={"AR@100": 48.5, "AR@300": 54.6, "AR@1000": 58.6}),
    "rpn_iur": Row("RPN + IUR", "rpn_iou", paper={"AR@100": 45.0, "AR@300": 52.8, "AR@1000": 58.0}),
    "rpn_mlc": Row("RPN + MLC", "rpn_iou", ML, paper={"AR@100": 48.8, "AR@300": 55.1, "AR@1000": 58.6}),
    # what the paper leaves open, each away from our reading by one setting
    "fcos-_ml_literal": Row("ML, objects that cannot be split drop out", "fcos-", {**ML, "mlc.degenerate": "literal"}),
    "fcos-_ml_positives": Row("ML among the baseline's positives", "fcos-", {**ML, "mlc.candidates": "positives"}),
    "fcos-_ml_alpha1": Row("ML, alpha 1", "fcos-", {**ML, "mlc.alpha": 1.0}),
    "fcos-_ml_alpha2": Row("ML, alpha 2", "fcos-", {**ML, "mlc.alpha": 2.0}),
    "fcos-_ml_early": Row("ML from 6/19 on", "fcos-_early", ML),
    "fcos-_mlc_positives": Row(
        "MLC among the baseline's positives", "fcos-_iou", {**ML, "mlc.candidates": "positives"}
    ),
    "fcos-_mlc_alpha2": Row("MLC, alpha 2", "fcos-_iou", {**ML, "mlc.alpha": 2.0}),
    "fcos-_mlc_gamma025": Row("MLC, gamma 0.25 from the switch on", "fcos-_iou", {**ML, "mlc.gamma": 0.25}),
    "fcos-_mlc_gamma4": Row("MLC, gamma 4 from the switch on", "fcos-_iou", {**ML, "mlc.gamma": 4.0}),
    "fcos-_mlc_attached": Row(
        "MLC, the IoU loss trains the boxes too", "fcos-_iou", {**ML, "mlc.detach_iou_target": False}
    ),
    "retinanet_mlc_positives": Row(
        "RetinaNet + MLC among the baseline's positives", "retinanet_iou", {**ML, "mlc.candidates": "positives"}
    ),
    "retinanet_mlc_alpha2": Row("RetinaNet + MLC, alpha 2", "retinanet_iou", {**ML, "mlc.alpha": 2.0}),
}

_CORRELATIONS = ("correlation", "correlation_pooled")
_DETECTION = (*_CORRELATIONS, "AP", "AP50", "AP75", "AR100")
_PROPOSALS = (*_CORRELATIONS, "AR@100", "AR@300", "AR@1000")

TABLES = {
    "1": Table("Mutual learning", ("fcos-", "fcos-_alignment", "fcos-_ml"), _DETECTION),
    "2": Table("IoU rescoring", ("fcos-", "fcos", "fcos-_iur", "fcos-_iou_nms"), _DETECTION),
    "3": Table(
        "Both parts",
        (
            *("fcos-", "fcos-_ml", "fcos-_iur", "fcos-_mlc"),
            *("retinanet", "retinanet_ml", "retinanet_iur", "retinanet_mlc"),
        ),
        _DETECTION,
    ),
    "4": Table("Region proposals", ("rpn", "rpn_ml", "rpn_iur", "rpn_mlc"), _PROPOSALS),
    "ablations": Table(
        "One setting away from the readings above, rates and first parts the same",
        (
            *("fcos-", "fcos-_ml", "fcos-_ml_literal", "fcos-_ml_positives", "fcos-_ml_alpha1", "fcos-_ml_alpha2"),
            *("fcos-_ml_early", "fcos-_mlc", "fcos-_mlc_positives", "fcos-_mlc_alpha2", "fcos-_mlc_gamma025"),
            *("fcos-_mlc_gamma4", "fcos-_mlc_attached"),
            *("retinanet", "retinanet_mlc", "retinanet_mlc_positives", "retinanet_mlc_alpha2"),
        ),
        _DETECTION,
    ),
}


def baseline(row: str) -> str:
    """The row that ``row`` is compared with: its detector without the method. Centerness is an addition to FCOS-."""
    return {"fcos": "fcos-"}.get(ROWS[row].stem, STEMS[ROWS[row].stem].detector)
