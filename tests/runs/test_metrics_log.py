"""metrics.jsonl: one strict JSON object a line, never twice."""

import json

from mlc_ext.detectors.runs.metrics_log import MetricsLog


def test_lines_are_appended(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"of": "an earlier run"}\n')
    log = MetricsLog(path)
    log.start()
    assert path.read_text() == ""
    log.add({"iteration": 1, "loss": 0.5})
    log.add({"iteration": 1, "metrics": {"AP": float("nan"), "AR": float("-inf"), "n": 3}})
    lines = path.read_text().splitlines()
    assert json.loads(lines[0]) == {"iteration": 1, "loss": 0.5}
    # strict JSON knows no NaN
    found = json.loads(lines[1], parse_constant=lambda name: 1 / 0)
    assert found == {"iteration": 1, "metrics": {"AP": None, "AR": None, "n": 3}}


def test_going_on_drops_what_came_after_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    killed = MetricsLog(path)
    for iteration in range(5):
        killed.add({"iteration": iteration})
    path.write_text(path.read_text() + '{"iterat')  # a line that the machine's end cut off
    resumed = MetricsLog(path)
    resumed.entries = killed.entries[:3]
    resumed.start()
    resumed.add({"iteration": 3})
    assert [json.loads(line)["iteration"] for line in path.read_text().splitlines()] == [0, 1, 2, 3]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_other_ranks_write_nothing(tmp_path):
    log = MetricsLog(None)
    log.start()
    log.add({"iteration": 1})
    assert log.entries == [{"iteration": 1}]
