"""The formats of exported files."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch.export import ExportedProgram

from mlc_ext._version import __version__

from ..models.dense_detector import DenseDetector
from ..prediction.exported import EXTRA_FILE, Metadata, finite_or_none
from ..prediction.predictor import Predictor
from ..runs.files import replacing, writing
from .program import INPUT, OUTPUTS, sizes_may_be_one

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def metadata_of(predictor: Predictor) -> Metadata:
    """The metadata of a run's exported files."""
    config, classes = predictor.config, predictor.classes
    thresholds = dataclasses.asdict(predictor.model.postprocessor)
    return Metadata(
        detector=config.model.detector,
        classes=classes.names,
        category_ids=classes.category_ids,
        class_agnostic=classes.agnostic,
        preprocessing={"short": config.data.evaluated_side, "long": config.data.long_side},
        postprocessing=thresholds | {"score_threshold": finite_or_none(thresholds["score_threshold"])},
        mlc_ext_version=__version__,
        torch_version=str(torch.__version__),
    )


def onnx_model(
    program: ExportedProgram, inputs: dict[str, dict[int, str]], outputs: Sequence[str]
) -> torch.onnx.ONNXProgram:
    """A program as an ONNX model of standard operators; ``inputs`` name them and their dynamic sizes."""
    from .onnx_nms import OPSET, batched_rescored_nms

    with _quiet():
        return torch.onnx.export(
            program,
            opset_version=OPSET,
            input_names=list(inputs),
            dynamic_shapes=inputs,
            output_names=list(outputs),
            custom_translation_table={torch.ops.mlc_ext.batched_rescored_nms.default: batched_rescored_nms},
            dynamo=True,
            verbose=False,
        )


def onnx_file(program: ExportedProgram, metadata: Metadata) -> bytes:
    """The detector in ONNX, with its metadata."""
    from .onnx_nms import OPSET

    exported = onnx_model(program, {INPUT: {0: "batch", 2: "height", 3: "width"}}, OUTPUTS)
    exported.model.metadata_props.update(dataclasses.replace(metadata, opset=OPSET).to_texts())
    exported.model.producer_name, exported.model.producer_version = "mlc-ext", __version__
    return exported.model_proto.SerializeToString()


def torch_file(program: ExportedProgram, metadata: Metadata) -> bytes:
    """The program as torch.export saves it."""
    with io.BytesIO() as file:
        torch.export.save(program, file, extra_files={EXTRA_FILE: json.dumps(metadata.to_texts())})
        return file.getvalue()


def aoti_file(program: ExportedProgram, metadata: Metadata) -> bytes:
    """The program compiled for this machine's CPU by AOTInductor."""
    import torch._inductor

    with io.BytesIO() as file, _quiet(), sizes_may_be_one():
        torch._inductor.aoti_compile_and_package(
            program, package_path=file, inductor_configs={"aot_inductor.metadata": metadata.to_texts()}
        )
        return file.getvalue()


class Format(NamedTuple):
    """A format of exported files."""

    suffix: str
    """Of the default name; the last part of it is the one that a file must have."""
    make: Callable[[ExportedProgram, Metadata], bytes]


FORMATS = {
    "onnx": Format(".onnx", onnx_file),
    "torch": Format(".pt2", torch_file),
    "aoti": Format(".aoti.pt2", aoti_file),
}


def check_possible(name: str, detector: DenseDetector) -> None:
    """Before any work: ValueError if the format cannot hold the detector, ImportError if what it needs is missing."""
    if name == "aoti":
        _check_compiler()
    if name != "onnx":
        return
    if detector.postprocessor.nms == "iou":
        raise ValueError(
            "model.nms='iou' cannot be exported to ONNX, whose NonMaxSuppression does not return the suppressed boxes; "
            "use --format torch or aoti"
        )
    if missing := [package for package in ONNX_PACKAGES if importlib.util.find_spec(package) is None]:
        raise ImportError(f"--format onnx needs {', '.join(missing)}: pip install 'mlc-ext[export]'")


def _check_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ImportError(
            f"--format aoti needs a C++ compiler, such as g++ or the one named by CXX: {error}"
        ) from error


def write_exported(name: str, program: ExportedProgram, metadata: Metadata, path: Path) -> int:
    """Writes a file of the format ``name``; ``path`` is never an incomplete file. Returns its size in bytes."""
    content = FORMATS[name].make(program, metadata)
    with writing(path), replacing(path) as file:
        file.write(content)
    return len(content)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within, warnings of torch's exporters about their own code are not shown."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
