"""Metrics as tables."""

from mlc_ext.detectors.evaluation.metrics_table import spread


def test_spread():
    baseline = [{"AP": 0.20, "correlation": 0.5}, {"AP": 0.22, "correlation": float("nan")}]
    other = [{"AP": 0.25, "correlation": 0.4}, {"AP": 0.24, "correlation": 0.6}]
    lines = [line.split("  ") for line in spread({"baseline": baseline, "MLC": other}).splitlines()]
    rows = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert rows == [
        ["AP", "corr(gt)"],
        ["baseline", "21.0 +- 1.4", "-"],
        ["MLC", "24.5 +- 0.7", "0.500 +- 0.141"],
        ["MLC - baseline", "+3.5 +- 2.1", "-"],  # 5 and 2 points: the seeds are paired
    ]
