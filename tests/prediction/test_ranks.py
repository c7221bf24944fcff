"""predict.py on two processes: each image once, the JSON of one process, one report."""

import json
import os

import pytest
from PIL import Image
from small_runs import finish, start
from untrained import write_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    write_checkpoint(folder, "fcos_minus_r50_mlc")
    (folder / "photos").mkdir()
    for number in range(7):
        Image.new("RGB", (64, 48 + number % 2), (30 * number, 10, 200)).save(folder / "photos" / f"{number}.png")
    return folder


def run(folder, *arguments, ranks):
    options = ("--score-threshold", "0.2", "--device", "cpu")
    process = start(folder, "fcos_minus_r50_mlc.pt", *arguments, *options, ranks=ranks, program="predict.py")
    return finish(process)


@pytest.mark.parametrize("count", [1, 7])
def test_two_processes_write_what_one_writes(folder, count):
    inputs = [f"photos/{number}.png" for number in range(count)]
    for ranks in (1, 2):
        code, out, error = run(folder, *inputs, "--out", f"of{ranks}", ranks=ranks)
        assert code == 0, error
        assert out.count("\n") == 1 and f" on {count} of {count} images, " in out
    one, two = (json.loads((folder / f"of{ranks}" / "predictions.json").read_text()) for ranks in (1, 2))
    assert len(one) == len(two) > count
    for mine, other in zip(one, two, strict=True):
        assert mine.keys() == other.keys() and mine["file_name"] == other["file_name"]
        assert mine["bbox"] == pytest.approx(other["bbox"], abs=1e-3)
        assert mine["score"] == pytest.approx(other["score"], abs=1e-5)
    drawings = [sorted(os.listdir(folder / f"of{ranks}")) for ranks in (1, 2)]
    assert drawings[0] == drawings[1] and len(drawings[0]) == count + 1


def test_a_broken_image_of_another_rank_is_reported_once(folder):
    (folder / "broken").mkdir()
    Image.new("RGB", (64, 48)).save(folder / "broken" / "a.png")
    (folder / "broken" / "b.png").write_bytes(b"")  # the second rank's
    code, out, error = run(folder, "broken", "--out", "found", "--quiet", ranks=2)
    assert code == 1 and "on 1 of 2 images" in out and out.count("\n") == 1
    assert error.count("predict.py: broken/b.png: cannot be decoded: an empty file\n") == 1


def test_a_mistake_is_reported_once(folder):
    code, out, error = run(folder, "absent.png", ranks=2)
    assert code == 1 and out == ""  # torchrun's own code
    assert error.count("no image or folder absent.png") == 1
