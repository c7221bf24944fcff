"""Files that `mlc-ext export` writes: their metadata, and how they are run from Python."""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORMAT = "mlc_ext exported detector 1"
SUFFIXES = (".onnx", ".pt2")
EXTRA_FILE = "mlc_ext.json"
"""Where a program of torch.export has its metadata."""

Outputs = Sequence[Tensor]
"""``boxes`` [N, M, 4], ``scores`` [N, M], ``labels`` [N, M], ``count`` [N]."""


@dataclass(frozen=True)
class Metadata:
    """The metadata of an exported file. In the file each entry is a text: a str as it is, other types as JSON."""

    detector: str
    """``model.detector`` of the run."""
    classes: list[str]
    """Names; label l is the class of index l - 1."""
    category_ids: list[int]
    """Of the training data in COCO's format."""
    class_agnostic: bool
    """Whether the detections are proposals."""
    preprocessing: dict[str, Any]
    """What is left to the caller: ``short`` and ``long``, the limits of the resized image's sides in pixels
    (:class:`~mlc_ext.detectors.data.transforms.Resize`). Normalization and padding are in the file."""
    postprocessing: dict[str, Any]
    """Settings of the file's postprocessor; None is no limit."""
    mlc_ext_version: str
    torch_version: str
    opset: int | None = None
    """Of ONNX files."""

    def to_texts(self) -> dict[str, str]:
        entries = {key: value for key, value in asdict(self).items() if value is not None}
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in entries.items()}
        return {"format": FORMAT, **texts}

    @classmethod
    def from_texts(cls, texts: Mapping[str, str], path: Path) -> Metadata:
        """ValueError, naming ``path``, if they are not those of :meth:`to_texts`."""
        if texts.get("format") != FORMAT:
            raise ValueError(f"{path} was not written by `mlc-ext export` (no format mark {FORMAT!r})")
        strings = ("detector", "mlc_ext_version", "torch_version")
        try:
            names = [name for name in cls.__dataclass_fields__ if name in texts]
            return cls(**{name: texts[name] if name in strings else json.loads(texts[name]) for name in names})
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: its metadata cannot be read: {error}") from error


class ExportedDetector:
    """The detector of an exported file, with the attributes of
    :class:`~mlc_ext.detectors.models.dense_detector.DenseDetector` that the predictor reads.

    Attributes:
        run: images uint8 [N, 3, H, W] of one size to :data:`Outputs`.
    """

    size_divisor = 1
    """Images of one batch must have the same size."""

    def __init__(self, run: Callable[[Tensor], Outputs], metadata: Metadata) -> None:
        self.run, self.metadata = run, metadata

    @torch.no_grad()
    def detect(self, images: Sequence[Tensor]) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
        """As the network's: detections, and no predictions before NMS."""
        boxes, scores, labels, counts = self.run(torch.stack(list(images)))
        found = [
            {"boxes": boxes[i, :n], "labels": labels[i, :n], "scores": scores[i, :n]}
            for i, n in enumerate(counts.tolist())
        ]
        return found, []


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Whether a path names an exported file, by its suffix."""
    return Path(path).suffix.lower() in SUFFIXES


def open_exported(path: Path, device: str = "auto") -> ExportedDetector:
    """The detector of an exported file, on the CPU. Programs of .pt2 files are native code: open trusted files only.

    Raises:
        FileNotFoundError: no such file. ValueError: it is damaged, was not written by this project, or the device is
            not the CPU. ImportError: onnxruntime is missing.
    """
    if device not in ("auto", "cpu"):
        raise ValueError(f"{path}: exported files run on the CPU here, got device {device!r}")
    if not path.is_file():
        raise FileNotFoundError(f"no exported file {path}")
    if path.suffix.lower() == ".onnx":
        return _open_onnx(path)
    try:
        with zipfile.ZipFile(path) as archive:
            compiled = any("/aotinductor/" in name for name in archive.namelist())
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is no readable .pt2 file: truncated, or another format") from error
    return _open_compiled(path) if compiled else _open_program(path)


def _open_onnx(path: Path) -> ExportedDetector:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(f"{path} needs onnxruntime: pip install 'mlc-ext[export]' ({error})") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # warnings of its optimizer are not for the user
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of some ten unrelated types
        raise ValueError(f"{path} cannot be loaded by onnxruntime {onnxruntime.__version__}: {error}") from error
    metadata = Metadata.from_texts(session.get_modelmeta().custom_metadata_map, path)

    def run(images: Tensor) -> Outputs:
        return [torch.from_numpy(output) for output in session.run(None, {"images": images.numpy()})]

    return ExportedDetector(run, metadata)


def _open_program(path: Path) -> ExportedDetector:
    extra = {EXTRA_FILE: ""}
    try:
        program = torch.export.load(path, extra_files=extra)
    except Exception as error:  # damaged archives raise many types
        raise ValueError(f"{path} cannot be loaded by torch.export of torch {torch.__version__}: {error}") from error
    if not extra[EXTRA_FILE]:
        raise ValueError(f"{path} was not written by `mlc-ext export` (it has no {EXTRA_FILE})")
    return ExportedDetector(program.module(), Metadata.from_texts(json.loads(extra[EXTRA_FILE]), path))


def _open_compiled(path: Path) -> ExportedDetector:
    import torch._inductor

    try:
        compiled = torch._inductor.aoti_load_package(str(path))
    except Exception as error:
        raise ValueError(f"{path} cannot be loaded by AOTInductor of torch {torch.__version__}: {error}") from error
    return ExportedDetector(compiled, Metadata.from_texts(compiled.get_metadata(), path))


def finite_or_none(value: float | None) -> float | None:
    """A limit in JSON, which has no infinity."""
    return None if value is None or math.isinf(value) else value
