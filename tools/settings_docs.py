"""Writes docs/settings.md and README's table of the method's settings: python tools/settings_docs.py

--check writes nothing; exit code 1 if a file would change.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from mlc_ext.detectors.config.reference import all_settings, settings_markdown

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- settings: written by tools/settings_docs.py -->\n", "<!-- /settings -->\n"
TITLE = """# Settings

Written by `python tools/settings_docs.py` from the dataclasses in `detectors/config/sections/` and `MLCConfig`. Each
is set by `--set section.key=value` or in a YAML file. Presets change some of the defaults.

"""


def method_table() -> str:
    """The settings of section mlc, as README shows them: with the first sentence of their description."""
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    for setting in all_settings():
        if setting.section == "mlc":
            meaning = re.split(r"(?<!Eq)\. ", setting.description)[0].rstrip(".").replace("|", "\\|")
            lines.append(f"| `{setting.name}` | `{setting.default}` | {meaning} |")
    return "\n".join(lines) + "\n"


def between_markers(text: str, new: str) -> str:
    """``text`` with ``new`` between BEGIN and END."""
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"no {BEGIN.strip()} ... {END.strip()} in README.md")
    return f"{before}{BEGIN}\n{new}\n{END}{after}"


def written_files() -> dict[Path, str]:
    """What each file must hold."""
    readme = ROOT / "README.md"
    return {
        ROOT / "docs" / "settings.md": TITLE + settings_markdown(),
        readme: between_markers(readme.read_text(), method_table()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a file would change")
    check = parser.parse_args().check
    changed = {path: text for path, text in written_files().items() if path.read_text() != text}
    for path, text in changed.items():
        print(f"{path.relative_to(ROOT)}: {'is out of date' if check else 'written'}")
        if not check:
            path.write_text(text)
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
