"""detectors/predict.py where a file, the output or the user ends something: one fails alone, the rest is written."""

import errno
import json
import os
import shutil
import signal

import pytest
import torch
from full_disks import full_disk
from PIL import Image
from untrained import write_checkpoint

from mlc_ext.detectors import interrupts, predict
from mlc_ext.detectors.predict import Predictor, main
from mlc_ext.detectors.prediction import pixels
from mlc_ext.detectors.prediction import run as prediction


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), "fcos_minus_r50_mlc")


@pytest.fixture
def program(checkpoint, tmp_path, monkeypatch, capsys):
    """predict.py in tmp_path, where photos/ has a.png, m.png and z.png: arguments -> exit code, stdout, stderr."""
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "m.png", "z.png"):
        Image.new("RGB", (64, 48), (90, 10, 200)).save(tmp_path / "photos" / name)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = main([str(checkpoint), *map(str, arguments), "--quiet", "--device", "cpu", "--score-threshold", "0"])
        return code, *capsys.readouterr()

    return run


def names_in_json(out="found"):
    with open(f"{out}/predictions.json") as file:
        return sorted({os.path.basename(row["file_name"]) for row in json.load(file)})


def test_a_long_name_is_drawn_under_a_shorter_one(program):
    names = ["n" * 251 + ".png", "n" * 250 + "m.png", "\u732b" * 83 + ".png"]  # 255, 255 and 253 bytes
    for name in names:
        shutil.copy("photos/a.png", f"photos/{name}")
    code, _, error = program("photos", "--out", "found")
    assert (code, error) == (0, "") and names_in_json() == sorted(["a.png", "m.png", "z.png", *names])
    drawings = os.listdir("found/photos")
    assert len(drawings) == 6 and all(name.endswith(".png") and len(os.fsencode(name)) <= 255 for name in drawings)
    program("photos", "--out", "again")
    assert sorted(os.listdir("again/photos")) == sorted(drawings)


@pytest.mark.parametrize("kind", ["loop", "pipe", "folder", "dangling", "device"])
def test_what_is_no_regular_file_fails_alone(program, kind):
    if kind == "loop":
        os.symlink("c.png", "photos/b.png")
        os.symlink("b.png", "photos/c.png")
    elif kind == "pipe":
        os.mkfifo("photos/b.png")
    elif kind == "folder":
        os.mkdir("photos/b.png")  # a folder called as an image is a folder
    elif kind == "dangling":
        os.symlink("absent", "photos/b.png")
    else:
        os.symlink("/dev/zero", "photos/b.png")
    code, out, error = program("photos", "--out", "found")
    assert names_in_json() == ["a.png", "m.png", "z.png"]
    failed = {"loop": 2, "folder": 0}.get(kind, 1)
    assert code == (1 if failed else 0) and f"on 3 of {3 + failed} images" in out
    assert error.count("predict.py: photos/") == error.count("not a regular file") == error.count("\n") == failed


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CPU: can't allocate memory: 9 bytes\nx"),
                                   torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")])  # fmt: skip
def test_an_image_that_does_not_fit_in_memory_fails_alone(program, monkeypatch, error):
    detect = Predictor.detect
    sizes = iter((64, 0, 64))

    def fails_once(self, images):
        if next(sizes) == 0:
            raise error
        return detect(self, images)

    monkeypatch.setattr(Predictor, "detect", fails_once)
    code, _, printed = program("photos", "--out", "found")
    assert code == 1 and names_in_json() == ["a.png", "z.png"]
    assert printed.startswith("predict.py: photos/m.png: ") and printed.count("\n") == 1 and "memory" in printed


def test_a_bug_leaves_the_results_so_far(program, monkeypatch):
    detect = Predictor.detect
    monkeypatch.setattr(
        Predictor, "detect", lambda self, images: detect(self, images) if images[0][0, 0, 0] == 90 else 1 // 0
    )
    Image.new("RGB", (64, 48)).save("photos/n.png")
    with pytest.raises(ZeroDivisionError):
        program("photos", "--out", "found")
    assert names_in_json() == ["a.png", "m.png"]


def test_ctrl_c_leaves_the_results_so_far(program, monkeypatch):
    decode = pixels.decode_image

    def interrupted(data):
        if os.path.exists("found/photos/m.png.png"):
            os.kill(os.getpid(), signal.SIGINT)
        return decode(data)

    monkeypatch.setattr(pixels, "decode_image", interrupted)
    code, out, error = program("photos", "--out", "found")
    assert code == 130 and error == "predict.py: interrupted\n" and "on 2 of 3 images" in out
    assert names_in_json() == ["a.png", "m.png"]


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("signals", [1, 2])
def test_ctrl_c_while_the_results_are_written(program, monkeypatch, before, signals):
    """Also after a first one that ended the predictions. A second one in the writing ends it."""
    decode, write = pixels.decode_image, prediction.write_whole

    def interrupted(data):
        if before and os.path.exists("found/photos/m.png.png"):
            os.kill(os.getpid(), signal.SIGINT)
        return decode(data)

    def slow(path, text):
        for _ in range(signals):
            os.kill(os.getpid(), signal.SIGINT)
        write(path, text)

    monkeypatch.setattr(pixels, "decode_image", interrupted)
    monkeypatch.setattr(prediction, "write_whole", slow)
    code, out, error = program("photos", "--out", "found")
    assert code == 130
    if signals == 2:
        assert out == "" and not os.path.exists("found/predictions.json")
        return
    done = ["a.png", "m.png"] if before else ["a.png", "m.png", "z.png"]
    assert error == "predict.py: interrupted\n" and f"on {len(done)} of 3 images" in out and names_in_json() == done
    interrupts.check()


def test_a_drawing_that_cannot_be_written_fails_alone(program):
    os.makedirs("found/photos/m.png.png")
    code, _, error = program("photos", "--out", "found")
    assert code == 1 and names_in_json() == ["a.png", "m.png", "z.png"]
    assert error.startswith("predict.py: photos/m.png: its drawing is not written: ") and error.count("\n") == 1
    assert sorted(os.listdir("found/photos")) == ["a.png.png", "m.png.png", "z.png.png"]


def test_a_full_disk_is_a_line_and_leaves_the_old_results(program, monkeypatch):
    program("photos", "--out", "found", "--json")
    before = open("found/predictions.json").read()
    with full_disk(4500):  # enough for the trial at the start
        code, out, error = program("photos", "--out", "found", "--json")
    assert code == 2 and out == "" and "File too large: 'found/predictions.json'" in error and error.count("\n") == 1
    assert open("found/predictions.json").read() == before and os.listdir("found") == ["predictions.json"]


def test_a_full_disk_ends_the_drawing(program, monkeypatch):
    def full(self, path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    code, _, error = program("photos", "--out", "found")
    assert code == 2 and error.endswith("No space left on device: 'found/photos/a.png.png'\n")
    assert names_in_json() == ["a.png"]


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("file", "Not a directory: 'file'"),
        ("file/deep", "Not a directory: 'file/deep'"),
        ("blocked", "Is a directory: 'blocked/predictions.json'"),
        ("/proc/found", "'/proc/found'"),
        ("n" * 300, "File name too long"),
    ],
)
def test_an_output_that_cannot_be_made_is_found_before_the_work(program, monkeypatch, out, message):
    monkeypatch.setattr(predict, "Predictor", lambda *_: pytest.fail("the work has begun"))
    open("file", "w").close()
    os.makedirs("blocked/predictions.json")
    code, printed, error = program("photos", "--out", out)
    assert (code, printed) == (2, "") and message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [["photos", "--out", "photos"], [".", "--out", "."], ["photos/../photos", "--out", "photos"],
     ["link", "--out", "photos"], ["photos", "--out", "link"], [".", "--out", ".", "--recursive"],
     ["photos/a.png", "photos", "--out", "photos"]],
)  # fmt: skip
def test_an_input_folder_that_is_the_output(program, arguments):
    os.symlink("photos", "link")
    code, _, error = program(*arguments)
    assert code == 2 and "is the output folder too" in error and "choose another --out" in error


def test_an_image_may_lie_in_the_output_folder(program):
    assert program("photos/a.png", "--out", "photos")[0] == 0
    assert sorted(os.listdir("photos")) == ["a.png", "a.png.png", "m.png", "predictions.json", "z.png"]


@pytest.mark.parametrize("threshold", ["nan", "inf", "-0.1", "30"])
def test_thresholds_that_keep_nothing(checkpoint, program, capsys, threshold):
    assert main([str(checkpoint), "photos", f"--score-threshold={threshold}"]) == 2
    assert "--score-threshold must be in 0..1" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["n" * 300, "/dev/zero", "pipe", "absent"])
def test_inputs_that_are_no_files(program, given):
    os.mkfifo("pipe")
    code, _, error = program(given, "--out", "found")
    assert code == 2 and "no image or folder" in error and not os.path.exists("found")


@pytest.mark.parametrize("given", ["photos/A.PNG", "photos/a", "photos/%61.png", "Photos/a.png", "'photos/a.png'",
                                   "file://{}/photos/a.png"])  # fmt: skip
def test_the_near_name_of_a_missing_input_is_suggested(program, tmp_path, given):
    code, _, error = program(given.format(tmp_path), "--out", "found")
    near = tmp_path / "photos/a.png" if given.startswith("file:") else "photos/a.png"
    assert code == 2 and error.endswith(f"; did you mean '{near}'?\n") and error.count("\n") == 1
    assert not os.path.exists("found")


def test_nothing_is_suggested_where_nothing_is_near(program):
    code, _, error = program("photos/quite_another.jpg", "--out", "found")
    assert code == 2 and error == "predict.py: no image or folder photos/quite_another.jpg\n"


def test_an_empty_path_is_refused(checkpoint, capsys):
    """It is not the current folder."""
    with pytest.raises(SystemExit) as ended:
        main([str(checkpoint), "photos/a.png", ""])
    assert ended.value.code == 2 and "a path must not be empty" in capsys.readouterr().err
