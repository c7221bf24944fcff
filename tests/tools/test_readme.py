"""The README's Python, run as it stands; the make targets and options it names exist."""

import re
from pathlib import Path

import pytest
import torch

from mlc_ext.detectors.config.presets import PRESETS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def names_of_a_user() -> dict:
    """What the snippets take from the loop around them."""
    torch.manual_seed(0)
    gt_boxes = torch.tensor([[0.0, 0.0, 20.0, 20.0], [10.0, 10.0, 40.0, 30.0]])
    boxes = (gt_boxes.repeat(20, 1) + torch.randn(40, 4)).requires_grad_()
    prediction = {"boxes": boxes.detach(), "scores": torch.rand(40, 3)}
    return {
        "labels": torch.tensor([1, 0, -1, 1]).repeat(10).to(torch.int8),
        "candidate_gt": torch.tensor([0, -1, 0, 1]).repeat(10),
        "originally_ignored": torch.tensor([False, False, True, False]).repeat(10),
        "cls_logits": torch.randn(40, 3, requires_grad=True),
        "iou_logits": torch.randn(40, requires_grad=True),
        "boxes": boxes,
        "gt_boxes": gt_boxes,
        "gt_labels": torch.tensor([1, 3]),
        "scores": torch.rand(40),
        "dataset": [(prediction, {"boxes": gt_boxes, "labels": torch.tensor([1, 3])})],
    }


@pytest.mark.parametrize("epoch", [0, 12])
def test_snippets_run(epoch, capsys):
    names = names_of_a_user() | {"epoch": epoch}
    assert len(blocks("python")) == 3
    for snippet in blocks("python"):
        if "rescored_nms" in snippet:
            names["labels"] = torch.ones(40, dtype=torch.int64)
        exec(compile(snippet, "README.md", "exec"), names)
    sum(names["losses"].values()).backward()
    assert names["losses"].keys() == {"classification", "bbox_regression", "iou_rescoring"}
    assert names["cls_logits"].grad.abs().sum() > 0
    assert 0 < len(names["keep"]) < 40
    assert -1 <= float(capsys.readouterr().out) <= 1


def test_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    for command in "\n".join(blocks("bash")).splitlines():
        if target := re.match(r"make (\w[\w-]*)", command):
            assert re.search(rf"^{target[1]}:", makefile, re.MULTILINE), command
        if script := re.match(r"python (\S+\.py)", command):
            assert (ROOT / script[1]).is_file(), command
        if preset := re.search(r"--preset (\S+)", command):
            assert preset[1] in PRESETS, command


def test_configuration_files(tmp_path):
    from mlc_ext.detectors.train import configuration, parse

    assert len(blocks("yaml")) == 1
    (tmp_path / "c.yaml").write_text(blocks("yaml")[0])
    config = configuration(parse(["--config", str(tmp_path / "c.yaml")]))
    assert config.run.tensorboard and config.data.evaluated_side == 800 and config.mlc.ml
