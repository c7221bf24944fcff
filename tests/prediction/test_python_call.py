"""mlc_ext.detectors.load and predict: every kind of input gives the file's detections; folders, errors, results."""

import json
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from untrained import write_checkpoint

import mlc_ext.detectors
from mlc_ext.detectors import Detections, Predictor, Results, load
from mlc_ext.detectors.data.errors import ImageDecodeError
from mlc_ext.detectors.prediction import batches as batches_module
from mlc_ext.detectors.prediction import predictor as predictor_module
from mlc_ext.detectors.prediction.pixels import read_pixels
from mlc_ext.detectors.runs.checkpoint import load_checkpoint, save_checkpoint

SIZES = [(90, 60), (60, 90), (64, 64), (90, 60), (200, 30), (61, 88), (90, 60), (60, 90), (33, 47), (89, 60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run's folder with checkpoint.pt, and photos/ of several sizes."""
    folder = tmp_path_factory.mktemp("load")
    (folder / "photos" / "deep").mkdir(parents=True)
    os.replace(write_checkpoint(folder, "fcos_minus_r50_mlc"), folder / "checkpoint.pt")
    generator = np.random.default_rng(0)
    for number, (width, height) in enumerate(SIZES):
        pixels = generator.integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height)).save(folder / "photos" / f"{number}.png")
    Image.open(folder / "photos" / "0.png").save(folder / "photos" / "deep" / "d.png")
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return load(folder, device="cpu")


@pytest.fixture
def photo(folder):
    return folder / "photos" / "0.png"


def assert_close(found: Detections, expected: Detections):
    """Equal, except for rounding."""
    assert found.labels.tolist() == expected.labels.tolist() and found.image_size == expected.image_size
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-5)


def test_every_kind_of_one_image(model, photo):
    expected = model.predict(photo, 0.2)
    assert isinstance(expected, Detections) and len(expected) > 5 and expected.path == photo
    pixels = np.asarray(Image.open(photo).convert("RGB"))
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    sources = [str(photo), Image.open(photo), pixels, pixels[:, ::-1].copy()[:, ::-1], pixels / 255,
               (pixels / 255).astype("float32"), tensor, tensor / 255, (tensor / 255).requires_grad_()]  # fmt: skip
    for source in sources:
        found = model.predict(source, 0.2)
        assert torch.equal(found.boxes, expected.boxes) and torch.equal(found.scores, expected.scores)
        assert found.names == expected.names and found.image_size == (60, 90)
    assert model.predict(pixels).path is None and "file_name" not in model.predict(pixels).to_coco()[0]


@pytest.mark.parametrize("mode", ["L", "LA", "P", "PA", "RGBA", "CMYK", "1", "I", "I;16", "F", "YCbCr", "HSV"])
def test_pil_images_are_read_as_their_files(tmp_path, mode):
    values = np.linspace(0, 1, 600).reshape(20, 30)
    if mode.startswith("I"):
        image = Image.fromarray((values * 65535).astype(np.int32 if mode == "I" else np.uint16))
    elif mode == "F":
        image = Image.fromarray(values.astype(np.float32))
    else:
        image = Image.fromarray((values[..., None] * [255, 200, 100]).astype(np.uint8)).convert(mode)
    assert image.mode == mode
    found = read_pixels(image)
    assert found.shape == (3, 20, 30) and found.dtype == torch.uint8 and found.is_contiguous()
    if mode in ("PA", "HSV"):  # no lossless file format has them
        assert torch.equal(found, torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1))
        return
    file = tmp_path / ("x.png" if mode in ("LA", "P") else "x.tif")
    image.save(file)
    assert torch.equal(found, read_pixels(file)) and found.float().std() > 10


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(model, tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(1).integers(0, 256, (10, 15, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((90, 60)).save(tmp_path / "x.png", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "x.png"))
    expected = model.predict(np.asarray(upright), 0.2)
    assert expected.image_size == upright.size[::-1]
    for source in (tmp_path / "x.png", Image.open(tmp_path / "x.png")):
        found = model.predict(source, 0.2)
        assert torch.equal(found.boxes, expected.boxes) and found.image_size == expected.image_size
        assert found.draw().width / found.draw().height == upright.width / upright.height


@pytest.mark.parametrize("batch_size", [2, 3, 8, 100])
def test_results_do_not_depend_on_the_batch_size(model, folder, batch_size, monkeypatch):
    files = [folder / "photos" / f"{number}.png" for number in range(len(SIZES))]
    alone = [model.predict(file, 0.2) for file in files]
    batches = []
    detect = Predictor.detect

    def spy(self, images):
        batches.append(len(images))
        return detect(self, images)

    monkeypatch.setattr(Predictor, "detect", spy)
    monkeypatch.setattr(batches_module, "_WINDOW", 2)
    found = model.predict(files, 0.2, batch_size)
    assert isinstance(found, Results) and [one.path for one in found] == files
    for one, expected in zip(found, alone, strict=True):
        assert_close(one, expected)
    assert sum(batches) == len(files) and 1 < max(batches) <= batch_size


def test_few_pixels_are_held(model, folder, monkeypatch):
    """Large photographs are not all read before the first one is predicted on."""
    monkeypatch.setattr(batches_module, "_WINDOW_BYTES", 3 * 60 * 90)
    held, read, seen = [], [], model.stream([folder / "photos" / "0.png"] * 9, threshold=0.5, batch_size=4)
    monkeypatch.setattr(predictor_module, "read_pixels", lambda source: read.append(source) or read_pixels(source))
    for number, _ in enumerate(seen):
        held.append(len(read) - number)
    assert len(held) == 9 and max(held) == 2


def test_threshold_is_strict_and_results_are_ordinary_tensors(model, photo):
    whole = model.predict(photo, 0)
    assert (whole.scores[:-1] >= whole.scores[1:]).all()
    score = float(whole.scores[3])
    found = model.predict(photo, score)
    assert len(found) == int((whole.scores > score).sum()) < len(whole)
    assert torch.equal(found.boxes, whole.boxes[: len(found)]) and not found.boxes.is_inference()
    (found.boxes * torch.ones(4, requires_grad=True)).sum().backward()


def test_a_result(model, photo, tmp_path, monkeypatch):
    monkeypatch.chdir(photo.parent)
    found = model.predict("0.png", 0.2)
    assert [one.name for one in found] == found.names and set(found.names) <= {"cat", "dog", "emu"}
    for one, box, score, label in zip(found, found.boxes, found.scores, found.labels, strict=True):
        assert one.box == tuple(box.tolist()) and (one.score, one.label) == (score.item(), label.item())
        assert one.name == ["cat", "dog", "emu"][label - 1]
    first, row = next(iter(found)), found.to_coco()[0]
    assert row["bbox"] == pytest.approx([*first.box[:2], first.box[2] - first.box[0], first.box[3] - first.box[1]])
    assert (row["image_id"], row["file_name"]) == (0, "0.png") and row["category_id"] in (2, 5, 11)
    assert len(found.to_coco()) == len(found) and json.dumps(found.to_coco())
    assert repr(found).startswith("<Detections on 0.png, 90 x 60: ")
    assert f"{found.names.count('cat')} cat" in repr(found)
    found.save(tmp_path / "new" / "found.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "found.png")), np.asarray(found.draw()))
    with pytest.raises(ValueError, match="unknown file extension"):
        found.save(tmp_path / "found.xyz")
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        found.draw(width=0)
    plain = np.asarray(Image.open("0.png").resize((720, 480), Image.Resampling.BICUBIC)).astype(int)
    changed = [int((np.asarray(found.draw(width=width)) != plain).any(-1).sum()) for width in (1, 9)]
    assert 0 < changed[0] < changed[1]


def test_no_objects(model, photo):
    found = model.predict(photo, 1)
    assert len(found) == 0 and list(found) == found.to_coco() == found.names == [] and found.boxes.shape == (0, 4)
    assert repr(found).endswith(": nothing>") and found.draw().size == (720, 480)


def test_folders_patterns_and_lists(model, folder):
    photos = folder / "photos"

    def names(source, **options):
        found = model.predict(source, **options)
        assert isinstance(found, Results) and not found.failed
        return [one.path.relative_to(photos).as_posix() for one in found]

    top = [f"{number}.png" for number in range(len(SIZES))]
    assert names(photos) == names(f"{photos}/*.png") == names(f"{photos}/*") == top
    assert names(photos, recursive=True) == [*top, "deep/d.png"] == names([photos, photos / "deep"])
    assert names(f"{photos}/**/d.png") == ["deep/d.png"] and names(f"{photos}/[12].png") == ["1.png", "2.png"]
    assert names([photos / "3.png", photos / "3.png"]) == ["3.png", "3.png"]
    assert model.predict([]) == [] and len(model.predict([np.zeros((8, 8, 3), np.uint8)])) == 1
    assert [one.image_id for one in model.predict([photos / "8.png", photos / "3.png"])] == [8, 3]
    assert [one.image_id for one in model.predict([photos / "8.png", Image.new("RGB", (9, 9))])] == [1, 2]


def test_broken_files_of_a_folder_are_listed(model, photo, tmp_path, caplog):
    (tmp_path / "a.png").write_bytes(photo.read_bytes())
    (tmp_path / "b.png").write_bytes(photo.read_bytes()[:300])
    (tmp_path / "c.png").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        found = model.predict(tmp_path, batch_size=4)
    assert [one.path.name for one in found] == ["a.png"] and [path.name for path in found.failed] == ["b.png", "c.png"]
    assert found.failed[tmp_path / "c.png"] == "cannot be decoded: an empty file"
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "2 images or folders cannot be read and are left out"
    ]
    for source in (tmp_path / "c.png", [photo, tmp_path / "c.png"]):  # named by the caller
        with pytest.raises(ImageDecodeError, match="c.png: cannot be decoded: an empty file"):
            model.predict(source)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("absent.png", FileNotFoundError, "no image or folder absent.png"),
        ("0.pgn", FileNotFoundError, r"no image or folder 0.pgn; did you mean '0.png'\?"),
        ("*.jpg", FileNotFoundError, r"no image or folder \*.jpg"),
        (["0.png", "absent.png"], FileNotFoundError, "absent.png"),
        ("deep/empty", ValueError, r"no images in deep/empty \(recursive=True looks deeper\)"),
        ("", ValueError, "the path of an image must not be empty"),
        (["0.png", ""], ValueError, "the path of an image must not be empty"),
        (3, TypeError, "an image must be a path, a PIL image, an array or a tensor, or a list of these, got int"),
        (iter(["0.png"]), TypeError, "or a list of these, got list_iterator"),
        ([["0.png"]], TypeError, "an image must be a path, a PIL image, an array or a tensor, got list"),
        (None, TypeError, "got NoneType"),
        (Image.new("RGB", (0, 5)), ValueError, r"an image must have pixels, got size \[0, 5\]"),
        ([Image.new("F", (5, 0))] * 2, ValueError, r"image 0: an image must have pixels, got size \[5, 0\]"),
        (np.zeros((8, 8), np.uint8), ValueError, r"an array must have shape \[H, W, 3\], got \[8, 8\]"),
        (np.zeros((3, 8, 8), np.uint8), ValueError, r"got \[3, 8, 8\]"),
        (np.zeros((0, 8, 3), np.uint8), ValueError, "an image must have pixels"),
        (torch.zeros(8, 8, 3), ValueError, r"a tensor must have shape \[3, H, W\], got \[8, 8, 3\]"),
        (torch.zeros(2, 3, 8, 8), ValueError, r"got \[2, 3, 8, 8\]"),
        (torch.full((3, 8, 8), 255.0), ValueError, r"pixels of type torch.float32 must be in 0..1, got 255 to 255"),
        (np.full((8, 8, 3), np.nan), ValueError, "must be in 0..1, got nan"),
        (
            torch.zeros(3, 8, 8, dtype=torch.int64),
            TypeError,
            "pixels must be uint8, or floats in 0..1, got torch.int64",
        ),
        ([torch.zeros(3, 8, 8), torch.zeros(8, 8)], ValueError, "image 1: a tensor must have shape"),
    ],
)
def test_what_is_no_image(model, photo, monkeypatch, source, error, message):
    monkeypatch.chdir(photo.parent)
    os.makedirs("deep/empty", exist_ok=True)
    with pytest.raises(error, match=message):
        model.predict(source)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, "threshold must be in 0..1, got 1.5"),
        ({"threshold": float("nan")}, "threshold must be in 0..1, got nan"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_options_out_of_range(model, photo, options, message):
    with pytest.raises(ValueError, match=message):
        model.predict(photo, **options)


def test_a_batch_that_does_not_fit_in_memory_is_taken_image_by_image(model, photo, monkeypatch):
    detect, expected = Predictor.detect, model.predict(photo)

    def small_memory(self, images):
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return detect(self, images)

    monkeypatch.setattr(Predictor, "detect", small_memory)
    found = model.predict([photo] * 5, batch_size=4)
    assert len(found) == 5 and all(torch.equal(one.boxes, expected.boxes) for one in found)
    monkeypatch.setattr(Predictor, "detect", lambda self, images: small_memory(self, images * 2))
    with pytest.raises(torch.OutOfMemoryError, match="0.png: CUDA out of memory"):
        model.predict(photo)


def test_a_run_s_folder_or_its_file(folder, model, photo, tmp_path, caplog):
    expected = model.predict(photo)
    assert torch.equal(load(folder / "checkpoint.pt", "cpu").predict(photo).boxes, expected.boxes)
    run = tmp_path / "demo" / "MLC"
    run.mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="no checkpoint in .*demo$"):
        load(tmp_path / "demo")
    (run / "checkpoint.1.pt").write_bytes((folder / "checkpoint.pt").read_bytes())
    (run / "checkpoint.pt").write_bytes(b"truncated")
    assert torch.equal(load(str(run), "cpu").predict(photo).boxes, expected.boxes)  # the newest that can be used
    assert "no readable checkpoint" in caplog.text
    with pytest.raises(FileNotFoundError, match="no checkpoint in .*demo; there are runs in it: .*demo/MLC"):
        load(tmp_path / "demo")
    with pytest.raises(FileNotFoundError, match="no checkpoint .*absent.pt"):
        load(tmp_path / "absent.pt")
    with pytest.raises(ValueError, match="no readable checkpoint"):
        load(run / "checkpoint.pt")
    with pytest.raises(ValueError, match="device must be"):
        load(folder, device="tpu")


def test_averaged_weights_are_used(folder, model, photo, tmp_path):
    state = load_checkpoint(folder / "checkpoint.pt")
    state["ema"] = {"weights": state["model"]}
    state["model"] = {key: torch.zeros_like(value) for key, value in state["model"].items()}
    save_checkpoint(tmp_path / "ema.pt", {key: state[key] for key in state if key != "format"})
    assert torch.equal(load(tmp_path / "ema.pt", "cpu").predict(photo).boxes, model.predict(photo).boxes)


def test_proposals_have_no_class(tmp_path, photo):
    model = load(write_checkpoint(tmp_path, "rpn_r50_iur"), "cpu")
    found = model.predict(photo, 0)
    assert set(found.names) == {"object"} and {row["category_id"] for row in found.to_coco()} == {1}


def test_calls_at_the_same_time(model, folder):
    files = [folder / "photos" / f"{number}.png" for number in range(4)]
    expected = [model.predict(file, 0.2) for file in files]
    with ThreadPoolExecutor(4) as pool:
        for found, one in zip(pool.map(lambda file: model.predict(file, 0.2), files * 3), expected * 3, strict=True):
            assert_close(found, one)
    assert not model.model.training


def test_importing_the_package_imports_none_of_its_dependencies():
    code = (
        "import sys, mlc_ext\n"
        "before = set(sys.modules)\n"
        "import mlc_ext.detectors\n"
        "print(sorted(set(sys.modules) - before))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "['mlc_ext.detectors']"


def test_public_names():
    assert mlc_ext.detectors.Predictor is Predictor
    assert all(getattr(mlc_ext.detectors, name).__module__.startswith("mlc_ext.detectors")
               for name in mlc_ext.detectors.__all__)  # fmt: skip
    with pytest.raises(AttributeError, match="module 'mlc_ext.detectors' has no attribute 'laod'"):
        _ = mlc_ext.detectors.laod
