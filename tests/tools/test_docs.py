"""The documentation's generated parts: an entry for every public name, the tables of settings, the programs' help."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import settings_docs

import mlc_ext
from mlc_ext.detectors import cli
from mlc_ext.detectors.config.settings import Config

ROOT = Path(__file__).resolve().parents[2]
API = ROOT / "docs" / "api"


def extension(name: str):
    """A module of docs/_extensions."""
    pytest.importorskip("sphinx", reason="the documentation is built with mlc-ext[docs]")
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "_extensions" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_is_on_one_page():
    names = extension("public_names").public_names()
    assert sorted(name for group in names.values() for name in group) == sorted(mlc_ext.__all__)
    pages = [re.findall(r"^\.\. public-names:: (\w+)", page.read_text(), re.MULTILINE) for page in API.glob("*.rst")]
    assert sorted(group for page in pages for group in page) == sorted(names)


def test_a_new_name_has_an_entry(monkeypatch):
    def new_loss():
        """Of a module that has no group."""

    new_loss.__module__ = "mlc_ext.new_module"
    monkeypatch.setattr(mlc_ext, "new_loss", new_loss, raising=False)
    monkeypatch.setattr(mlc_ext, "__all__", [*mlc_ext.__all__, "new_loss"])
    public_names = extension("public_names")
    assert "new_loss" in public_names.public_names()["package"]
    assert public_names.entry("new_loss")[0] == ".. autofunction:: mlc_ext.new_loss"
    new_loss.__module__ = "mlc_ext.ops.new_loss"
    assert "new_loss" in public_names.public_names()["operators"]


def test_every_page_is_in_the_contents():
    contents = set(re.findall(r"^[\w/-]+$", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE))
    pages = {path.relative_to(ROOT / "docs").with_suffix("").as_posix()
             for pattern in ("*.md", "*.rst", "api/*.rst") for path in (ROOT / "docs").glob(pattern)}  # fmt: skip
    assert pages - {"index"} == contents


def test_help_of_every_program():
    help_of = extension("program_help").help_of
    assert all(f"  {name} " in help_of() for name in cli.PROGRAMS)
    for name in cli.PROGRAMS:
        assert help_of(name).startswith("usage: "), name


def test_links_to_included_files_lead_to_their_pages(tmp_path):
    links = extension("repository_links")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "changes.md").write_text("```{include} ../CHANGELOG.md\n```\n")
    pages = links.included_files(tmp_path / "docs")
    text = "[a](../CHANGELOG.md), [b](other.md), [c](https://x.org/CHANGELOG.md)"
    assert links.redirect(text, tmp_path / "docs", pages) == text.replace("../CHANGELOG.md", "/changes.md")
    assert links.redirect("[a](CHANGELOG.md)", tmp_path, pages) == "[a](/changes.md)"


def test_settings_are_up_to_date():
    """`python tools/settings_docs.py` writes them anew."""
    for path, text in settings_docs.written_files().items():
        assert path.read_text() == text, f"{path.name} is out of date: python tools/settings_docs.py"


def test_the_check_of_settings_writes_nothing(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs").mkdir()
    files = [tmp_path / "docs" / "settings.md", tmp_path / "README.md"]
    for path in files:
        path.write_text((ROOT / path.relative_to(tmp_path)).read_text())
    monkeypatch.setattr(settings_docs, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["settings_docs.py", "--check"])
    assert settings_docs.main() == 0 and capsys.readouterr().out == ""
    files[0].write_text("old")
    assert settings_docs.main() == 1 and files[0].read_text() == "old"
    assert capsys.readouterr().out == "docs/settings.md: is out of date\n"
    monkeypatch.setattr("sys.argv", ["settings_docs.py"])
    assert settings_docs.main() == 0 and files[0].read_text() == (ROOT / "docs" / "settings.md").read_text()


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_lint_checks_the_settings_and_no_build_writes_them():
    def commands(target):
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True)
        return [line for line in done.stdout.splitlines() if "settings_docs.py" in line]

    assert len(commands("lint")) == 1 and commands("lint")[0].endswith("tools/settings_docs.py --check")
    assert commands("docs") == []


def test_every_setting_is_documented():
    table = (ROOT / "docs" / "settings.md").read_text()
    for section, values in Config().to_dict().items():
        for name in values:
            assert f"| `{section}.{name}` |" in table


def test_text_outside_the_markers_stays():
    begin, end = settings_docs.BEGIN, settings_docs.END
    text = settings_docs.between_markers(f"above\n{begin}old\n{end}below\n", "new\n")
    assert text == f"above\n{begin}\nnew\n\n{end}below\n"
    assert settings_docs.between_markers(text, "new\n") == text
    with pytest.raises(ValueError, match="no <!-- settings"):
        settings_docs.between_markers("above\n", "new\n")
