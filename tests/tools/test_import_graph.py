"""tools/import_graph.py: counts and circles of a small package."""

import import_graph
import pytest

FILES = {
    "__init__.py": "",
    "top.py": "from .low import thing\nfrom .middle.a import f\n\n\ndef later():\n    from . import low\n",
    "middle/__init__.py": "",
    "middle/a.py": "from .. import low\nfrom . import b\n",
    "middle/b.py": "from ..low import thing\nimport json\n",
    "low.py": "from q.top import other\nimport json\n\n\nthing = 1\n",
}


TYPES_ALONE = "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from .top import later\n"


@pytest.fixture
def write(tmp_path):
    def write_package(**changed):
        for name, text in (FILES | {key.replace("__", "/") + ".py": text for key, text in changed.items()}).items():
            (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "p" / name).write_text(text)
        return str(tmp_path / "p")

    return write_package


def test_counts(write, capsys):
    assert import_graph.main([write()]) == 0
    printed = capsys.readouterr().out
    assert "5 modules, 5 imports, 3 rooms, 3 imports between rooms on 3 floors, no circle; 15 lines" in printed
    assert "the longest file top with 6" in printed


@pytest.mark.parametrize(
    ("changed", "circle"),
    [
        ({"middle__b": "from .a import f\n"}, {"middle.a", "middle.b"}),
        ({"low": "from .middle import b\n"}, {"low", "middle.b"}),
        ({"low": "def f():\n    from . import top\n"}, {"low", "top"}),
        ({"low": "from p.top import later\n"}, {"low", "top"}),
        ({"low": "import p.middle.b\n"}, {"low", "middle.b"}),
        ({"low": TYPES_ALONE}, {"low", "top"}),
    ],
)
def test_circles(write, capsys, changed, circle):
    assert import_graph.main([write(**changed)]) == 1
    line = next(line for line in capsys.readouterr().out.splitlines() if "circle: " in line)
    assert circle <= set(line.partition("circle: ")[2].split(" -> "))


def test_rooms_that_import_each_other(write, capsys):
    """No module is in a circle, but each of two rooms needs the other."""
    assert import_graph.main([write(middle__c="from ..top import later\n", top="from .middle.a import f\n")]) == 1
    assert "circle: " in capsys.readouterr().out
