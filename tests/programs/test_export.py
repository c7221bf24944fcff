"""The program export: files beside the checkpoint, their use by predict and load, what it refuses."""

import importlib.util
import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._inductor.config
from PIL import Image
from untrained import write_checkpoint

from mlc_ext.detectors import export, load, predict
from mlc_ext.detectors.exporting import formats
from mlc_ext.detectors.prediction.exported import open_exported
from mlc_ext.detectors.prediction.pixels import read_pixels

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A checkpoint with photos of several sizes, exported to ONNX, and what export printed."""
    folder = tmp_path_factory.mktemp("export")
    checkpoint = write_checkpoint(folder, "fcos_r50_mlc", model__backbone="resnet18")  # few layers are exported soon
    (folder / "photos").mkdir()
    generator = np.random.default_rng(0)
    for number, (width, height) in enumerate([(90, 60), (161, 100), (60, 90)]):
        pixels = generator.integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height)).save(folder / "photos" / f"{number}.png")
    logger = logging.getLogger("torch.__trace")  # see tests/exporting/conftest.py
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    capture = pytest.MonkeyPatch()
    printed: list[str] = []
    capture.setattr("builtins.print", lambda *words, **options: printed.append(" ".join(map(str, words))))
    try:
        code = export.main([str(checkpoint), "--check", str(folder / "photos")], "mlc-ext export")
    finally:
        capture.undo()
        logger.setLevel(level)
    return folder, checkpoint, code, "\n".join(printed)


def test_the_comparison_is_printed(run):
    folder, _, code, printed = run
    assert code == 0 and (folder / "model.onnx").is_file()
    assert f"{folder}/model.onnx: " in printed and "3 images" in printed and "3 of 3" in printed
    assert printed.splitlines()[-1] == f"next: mlc-ext predict {folder}/model.onnx IMAGES"


def test_the_file_says_what_it_is(run):
    folder, *_ = run
    model = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"} and not model.functions
    assert [(entry.domain, entry.version) for entry in model.opset_import if entry.domain == ""] == [("", 18)]
    sizes = {value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
             for value in (*model.graph.input, *model.graph.output)}  # fmt: skip
    assert sizes["images"] == ["batch", 3, "height", "width"]
    assert sizes["boxes"][1:] == [100, 4] and list(sizes)[1:] == ["boxes", "scores", "labels", "count"]
    entries = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(entries["classes"]) == ["cat", "dog", "emu"] and entries["detector"] == "fcos"
    assert json.loads(entries["preprocessing"]) == {"short": 140, "long": 200} and entries["opset"] == "18"
    assert json.loads(entries["postprocessing"])["score_threshold"] == 0.05
    assert entries["mlc_ext_version"] and entries["torch_version"] == torch.__version__


def test_load_gives_the_same_results(run):
    folder, checkpoint, *_ = run
    reference, exported = load(checkpoint, "cpu"), load(folder / "model.onnx")
    assert exported.config is None and exported.device.type == "cpu" and exported.classes == reference.classes
    for batch_size in (1, 4):
        pairs = zip(reference.predict(folder / "photos", 0.3), exported.predict(folder / "photos", 0.3, batch_size),
                    strict=True)  # fmt: skip
        for one, other in pairs:
            assert len(one) > 5 and other.names == one.names and other.image_size == one.image_size
            torch.testing.assert_close(other.boxes, one.boxes, rtol=0, atol=1e-3)
            torch.testing.assert_close(other.scores, one.scores, rtol=0, atol=1e-5)
    assert len(exported.predict(folder / "photos" / "0.png", 1.0)) == 0


def test_predict_takes_it(run, tmp_path, capsys):
    folder, *_ = run
    arguments = [str(folder / "model.onnx"), str(folder / "photos"), "--out", str(tmp_path), "--quiet", "--json"]
    assert predict.main(arguments) == 0
    rows = json.loads((tmp_path / "predictions.json").read_text())
    assert {row["image_id"] for row in rows} == {0, 1, 2} and {row["category_id"] for row in rows} <= {2, 5, 11}
    assert "boxes on 3 of 3 images" in capsys.readouterr().out


@pytest.fixture(scope="module")
def snippet():
    """The Python code of docs/export.md for ONNX Runtime."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "export.md").read_text()
    return next(part for part in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "onnxruntime" in part)


def test_the_snippet_of_the_documentation(run, snippet, tmp_path, monkeypatch, capsys):
    folder, *_ = run
    (tmp_path / "model.onnx").symlink_to(folder / "model.onnx")
    with Image.open(folder / "photos" / "1.png") as photo:
        photo.resize((180, 140)).save(tmp_path / "photo.jpg")  # as the network takes it: Pillow's scaling rounds apart
    monkeypatch.chdir(tmp_path)
    exec(snippet, {})
    expected = load("model.onnx").predict("photo.jpg", 0.3)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(expected) > 5
    assert [line.split()[0] for line in lines] == expected.names
    assert [float(line.split()[1]) for line in lines] == [round(float(score), 3) for score in expected.scores]


@pytest.mark.parametrize(
    ("size", "orientation"), [((90, 60), 1), ((90, 61), 6), ((601, 77), 1), ((33, 470), 8), ((1001, 699), 3)], ids=str
)
def test_the_snippet_reads_and_resizes_as_predict(run, snippet, tmp_path, monkeypatch, size, orientation):
    folder, *_ = run
    (tmp_path / "model.onnx").symlink_to(folder / "model.onnx")
    exif = Image.Exif()
    exif[0x0112] = orientation
    coarse = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size).save(tmp_path / "photo.jpg", exif=exif)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(snippet, names)
    own, expected = torch.from_numpy(names["images"][0]), load("model.onnx").resize(read_pixels("photo.jpg"))
    assert own.shape == expected.shape and (own.int() - expected.int()).abs().max() <= 1
    height, width = read_pixels("photo.jpg").shape[1:]
    ratios = [width / expected.shape[2], height / expected.shape[1]] * 2
    assert names["to_photo"] == pytest.approx(np.array(ratios, np.float32))


def test_other_formats_refuse_its_file(run, tmp_path):
    folder, *_ = run
    (tmp_path / "model.pt2").write_bytes((folder / "model.onnx").read_bytes())
    with pytest.raises(ValueError, match="is no readable .pt2 file"):
        open_exported(tmp_path / "model.pt2")
    with pytest.raises(ValueError, match="exported files run on the CPU here, got device 'cuda'"):
        load(folder / "model.onnx", "cuda")
    with pytest.raises(FileNotFoundError, match="no exported file"):
        load(tmp_path / "absent.onnx")
    (tmp_path / "damaged.onnx").write_bytes((folder / "model.onnx").read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged.onnx cannot be loaded by onnxruntime"):
        load(tmp_path / "damaged.onnx")
    model = onnx.load(folder / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="other.onnx was not written by `mlc-ext export`"):
        load(tmp_path / "other.onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN", "--format", "onnx", "torch", "--out", "x.onnx"], "--out names one file, but --format 2 formats"),
        (["RUN", "--out", "x.pt2"], "--out must end with .onnx for --format onnx, got x.pt2"),
        (["RUN", "--format", "aoti", "--out", "x.onnx"], "--out must end with .pt2 for --format aoti"),
        (["absent.pt"], "no checkpoint absent.pt"),
        (["FOLDER/model.onnx"], "model.onnx is exported already"),
        (["RUN", "--check", "absent.png"], "no image or folder absent.png"),
        (["RUN", "--check", "FOLDER/model.onnx"], "model.onnx: cannot be decoded"),
    ],
)
def test_refusals(run, capsys, arguments, message):
    folder, checkpoint, *_ = run
    words = [word.replace("RUN", str(checkpoint)).replace("FOLDER", str(folder)) for word in arguments]
    assert export.main(words, "mlc-ext export") == 2
    assert message in capsys.readouterr().err


def test_missing_packages(run, capsys, monkeypatch):
    folder, checkpoint, *_ = run
    find = importlib.util.find_spec
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    assert export.main([str(checkpoint), "--out", str(folder / "y.onnx")], "mlc-ext export") == 2
    assert "--format onnx needs onnxscript: pip install 'mlc-ext[export]'" in capsys.readouterr().err
    assert not (folder / "y.onnx").exists()
    monkeypatch.undo()
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"needs onnxruntime: pip install 'mlc-ext\[export\]'"):
        load(folder / "model.onnx")


def test_missing_compiler(run, capsys):
    folder, checkpoint, *_ = run
    with torch._inductor.config.patch({"cpp.cxx": (None, "/absent/g++")}):
        assert export.main([str(checkpoint), "--format", "aoti", "--out", str(folder / "z.pt2")], "mlc-ext export") == 2
    error = capsys.readouterr().err
    assert "--format aoti needs a C++ compiler" in error and "/absent/g++" in error and error.count("\n") == 1
    assert not (folder / "z.pt2").exists()
