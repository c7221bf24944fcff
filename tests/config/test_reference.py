"""The table of settings: complete, in order, and true."""

import ast
import dataclasses

import pytest

from mlc_ext.detectors.config.overrides import override
from mlc_ext.detectors.config.reference import all_settings, settings_markdown, settings_text
from mlc_ext.detectors.config.settings import Config
from mlc_ext.detectors.train import main

EXPECTED = {
    (section.name, field.name): getattr(getattr(Config(), section.name), field.name)
    for section in dataclasses.fields(Config())
    for field in dataclasses.fields(getattr(Config(), section.name))
}


def test_every_setting_once_in_order():
    assert [(setting.section, setting.name) for setting in all_settings()] == list(EXPECTED)


@pytest.mark.parametrize("setting", all_settings(), ids=lambda s: f"{s.section}.{s.name}")
def test_a_setting_has_its_default_and_a_docstring(setting):
    value = eval(compile(ast.parse(setting.default, mode="eval"), "default", "eval"), {})
    assert value == EXPECTED[setting.section, setting.name]
    assert override(Config(), f"{setting.section}.{setting.name}", value) == Config()
    assert len(setting.description.split()) >= 3 and setting.description.endswith(".")


def test_markdown():
    lines = settings_markdown().splitlines()
    assert [line for line in lines if line.startswith("#")] == [
        "## model",
        "## mlc",
        "## data",
        "## schedule",
        "## run",
    ]
    rows = [line for line in lines if line.startswith("| `")]
    assert len(rows) == len(EXPECTED)
    for row, (section, name) in zip(rows, EXPECTED, strict=True):
        cells = row.replace("\\|", "").strip("| ").split(" | ")
        assert cells[0] == f"`{section}.{name}`" and len(cells) == 4
    assert "| `model.weights` | str or None | `None` | ImageNet weights" in settings_markdown()


def test_the_command_prints_all(capsys):
    assert main(["--settings"]) == 0
    printed = capsys.readouterr().out
    assert printed == settings_text() + "\n"
    assert all(f"\n{section}.{name} = " in f"\n{printed}" for section, name in EXPECTED)
    assert max(map(len, printed.splitlines())) <= 120
