"""README and docs/: the Python runs as it stands; links, make targets, programs, options and figures exist."""

import contextlib
import importlib
import io
import re
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image
from untrained import write_checkpoint

from mlc_ext.detectors import cli
from mlc_ext.detectors.config.presets import PRESETS

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "benchmarks" / "NOTES.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
MAKEFILE = (ROOT / "Makefile").read_text()

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


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


def run(snippet: str, names: dict) -> dict:
    exec(compile(snippet, "README.md", "exec"), names)
    return names


def snippet(text: str) -> str:
    """README's Python block that has ``text``."""
    (found,) = [block for block in blocks(README, "python") if text in block]
    return found


def test_a_trained_detector_finds_objects(capsys, tmp_path, monkeypatch):
    """On the first screen, in five lines that need nothing but a run and an image."""
    lines = snippet("load(")
    assert blocks(README, "python")[0] == lines and len([line for line in lines.splitlines() if line]) == 5
    (tmp_path / "runs/demo/seed0/MLC").mkdir(parents=True)
    write_checkpoint(tmp_path, "fcos_minus_r50_mlc").rename(tmp_path / "runs/demo/seed0/MLC/checkpoint.pt")
    Image.new("RGB", (90, 60), (200, 0, 0)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    found = run(lines, {})["found"]
    assert 0 < len(found) == len(found.names) and found.boxes.shape == (len(found), 4) and min(found.scores) > 0.3
    assert capsys.readouterr().out.startswith(str(found.names)) and Image.open("found.png").size == (720, 480)


def test_the_snippet_of_mutual_labels_runs_alone_and_prints_what_it_says(capsys):
    lines = snippet("mlc_ext.mutual_labels(")
    run(lines, {})
    printed = re.findall(r"^print.*#\s*(\[[^]]*\])", lines, re.MULTILINE)
    assert printed and capsys.readouterr().out.splitlines() == printed


@pytest.mark.parametrize("epoch", [0, 12])
def test_the_training_loop(epoch):
    names = run(snippet("task_targets("), names_of_a_user() | {"epoch": epoch})
    sum(names["losses"].values()).backward()
    assert names["losses"].keys() == {"classification", "bbox_regression", "iou_rescoring"}
    assert names["cls_logits"].grad.abs().sum() > 0
    assert (names["iou_logits"].grad.abs().sum() > 0) == (epoch == 12)  # with the switch
    assert (names["task"].thresholds is not None) == (epoch == 12)


def test_inference_and_divergence(capsys):
    names = run(snippet("rescored_nms("), names_of_a_user() | {"labels": torch.ones(40, dtype=torch.int64)})
    assert 0 < len(names["keep"]) < 40
    run(snippet("Divergence()"), names_of_a_user())
    assert -1 <= float(capsys.readouterr().out) <= 1


def test_the_page_of_assigners():
    torch.manual_seed(0)
    boxes = torch.rand(2, 1344, 2) * 128
    names = {
        "cls_logits": torch.randn(2, 1344, 4),
        "boxes": torch.cat([boxes, boxes + 64], dim=2),
        "others": [{"boxes": torch.tensor([[40.0, 40.0, 200.0, 220.0]]), "labels": torch.tensor([1])}],
    }
    (block,) = blocks(ROOT / "docs" / "assigners.md", "python")
    names = run(block, names)
    assert sorted(names["assignment"].candidate_gt.unique().tolist()) == [-1, 0, 1]
    assert 0 < names["task"].num_cls_positive and 0 < names["task"].num_loc_positive


@each_page
def test_links_to_files(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"https?:|#", link):
            assert (page.parent / link.partition("#")[0]).is_file(), f"{page.name}: {link}"


def help_of(program: Path | str) -> str:
    """What a program prints with --help; a path of one in detectors/, or a name of `mlc-ext`."""
    name = program if isinstance(program, str) else program.stem
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        importlib.import_module(f"mlc_ext.detectors.{cli.MODULES.get(name, name)}").main(["--help"])
    return printed.getvalue()


def check_command(command: str) -> None:
    """Asserts that the programs, options, presets and make targets of a line exist."""
    words = shlex.split(command, comments=True)
    if not words:
        return
    if words[0] == "make":
        for target in (word for word in words[1:] if re.fullmatch(r"[a-z][a-z-]*", word)):
            assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), command
    scripts = [word for word in words if word.endswith(".py") and not word.startswith("-")]
    for script in scripts:
        assert script == "setup.py" or (ROOT / script).is_file(), command
    if words[0] == "mlc-ext":
        assert words[1] in cli.PROGRAMS, command
        program = words[1]
    elif scripts and Path(scripts[0]).parent.name == "detectors":
        program = Path(scripts[0])
    else:
        return
    options = help_of(program)
    after = words[words.index(scripts[0]) if scripts else 1 :]
    for option in (word.partition("=")[0] for word in after if word.startswith("--")):
        assert re.search(rf"{option}\b", options), f"{command}: {option}"
    if "--preset" in words:
        assert words[words.index("--preset") + 1] in PRESETS, command


@each_page
def test_commands_exist(page):
    for block in blocks(page, "bash"):
        for command in block.replace("\\\n", " ").splitlines():
            check_command(command)
    for inline in re.findall(r"`((?:mlc-ext|make|python \S+\.py)\s[^`]*)`", page.read_text()):
        check_command(" ".join(inline.split()))


@each_page
def test_named_files_exist(page):
    for path in re.findall(r"`((?:benchmarks|detectors|docs|mlc_ext|tests|tools|csrc)/[\w./-]+)`", page.read_text()):
        assert (ROOT / path).exists(), f"{page.name}: {path}"


@each_page
def test_extras_exist(page):
    text = page.read_text()
    extras = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    named = re.findall(r"mlc-ext\[([\w,]+)\]|extra `\[(\w+)\]`|'\.\[([\w,]+)\]'", text)
    for extra in ",".join("".join(groups) for groups in named).split(","):
        assert not extra or re.search(rf"^{extra} = \[", extras, re.MULTILINE), f"{page.name}: {extra}"


def test_the_results_are_the_recorded_ones():
    """README's rows: the demo's table, and the tables of the pages of results."""
    demo = {line.split("|")[1].strip(): line for line in (ROOT / "docs" / "training.md").read_text().splitlines()
            if line.count("|") > 6}  # fmt: skip
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in README.read_text().splitlines()
            if re.match(r"\| (here|the paper)", line)]  # fmt: skip
    names = ["FCOS-", "FCOS- + ML", "FCOS- + IUR", "FCOS- + MLC"]
    paper, of_demo, generated, *real = (dict(zip(names, row[1:], strict=True)) for row in rows)
    cells, cells_held_back, persons, persons_held_back = real
    assert all(f"| {of_demo[name]} |" in demo[name] for name in ("FCOS-", "FCOS- + MLC"))
    for page, headings, row in (
        ("results.md", ("## What was trained", "## The images held back"), generated),
        ("results_bccd.md", ("## Validation images", "## The images held back"), cells),
        ("results_bccd.md", ("## The images held back", "## One seed of the other rows"), cells_held_back),
        ("results_person.md", ("## Validation images", "## The images held back"), persons),
        ("results_person.md", ("## The images held back", None), persons_held_back),
    ):
        text = (ROOT / "docs" / page).read_text()
        begin, end = headings
        tables = text[text.index(begin) : None if end is None else text.index(end)]
        for name in names:
            found = [line for line in tables.splitlines() if line.startswith(f"| {name} |")]
            assert found and all(f"| {row[name]} |" in line and f"| {paper[name]} |" in line for line in found), name


def test_configuration_files(tmp_path):
    from mlc_ext.detectors.train import configuration, parse

    found = blocks(ROOT / "docs" / "training.md", "yaml")
    assert len(found) == 1
    (tmp_path / "c.yaml").write_text(found[0])
    config = configuration(parse(["--config", str(tmp_path / "c.yaml")]))
    assert config.run.tensorboard and config.data.evaluated_side == 800 and config.mlc.ml
