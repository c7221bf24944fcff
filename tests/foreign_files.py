"""Writes data sets in the formats of YOLO and Pascal VOC."""

from __future__ import annotations

from pathlib import Path

from PIL import Image


def picture(path: Path, width=40, height=20, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (9, 9, 9)).save(path, **options)
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def voc(path: Path, objects, *, width=40, height=20, name=None, extra="") -> Path:
    rows = "".join(
        f"<object><name>{label}</name><difficult>0</difficult><part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
        f"<xmax>2</xmax><ymax>2</ymax></bndbox></part><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax>"
        f"<ymax>{d}</ymax></bndbox></object>"
        for label, a, b, c, d in objects
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return text(path, f"<annotation><filename>{name or path.stem + '.jpg'}</filename>{size}{rows}{extra}</annotation>")
