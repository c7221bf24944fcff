"""Names of the images of a converted data set."""

from __future__ import annotations

from pathlib import Path

from mlc_ext.detectors.data.conversion.source import common_folder, unique_name


def test_names_are_unique_in_any_case():
    """Also on a file system that does not tell A.jpg from a.jpg."""
    used: set[str] = set()
    names = [unique_name(name, used) for name in ("s/a.jpg", "s/A.jpg", "s/a_2.jpg", "a.jpg")]
    assert names == ["s/a.jpg", "s/A_2.jpg", "s/a_2_2.jpg", "a.jpg"]


def test_the_common_folder():
    root = Path("data")
    assert common_folder([root / "a" / "b" / "1.jpg", root / "a" / "bc" / "1.jpg"], root) == root / "a"
    assert common_folder([root / "a" / "1.jpg"], root) == root / "a" and common_folder([], root) == root
    assert common_folder([Path("1.jpg"), Path("a/1.jpg")], Path()) == Path()
