"""Sizes that the structures of video files declare, against the sizes of the files."""

import pytest
from videos import FORMATS, write_video

from mlc_ext.detectors.prediction.cut_off import cut_off


@pytest.mark.parametrize("options", [{}, {"movflags": "faststart"}, {"movflags": "frag_keyframe+empty_moov"}])
@pytest.mark.parametrize("name", FORMATS)
def test_a_complete_file(tmp_path, name, options):
    path = write_video(tmp_path / name, container_options=options if name in ("clip.mp4", "clip.mov") else {})
    assert cut_off(path) is None
    path.write_bytes(path.read_bytes() + b"more")  # appended by some cameras
    assert cut_off(path) is None


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mov", "clip.mkv", "clip.webm", "clip.avi"])
def test_every_shorter_file(tmp_path, name):
    """That is long enough to have the size in it. An MP4 file that is cut off between two boxes looks complete."""
    data = write_video(tmp_path / name).read_bytes()
    boxes = [0]
    while name in ("clip.mp4", "clip.mov") and boxes[-1] < len(data):
        boxes.append(boxes[-1] + int.from_bytes(data[boxes[-1] : boxes[-1] + 4], "big"))
    path = tmp_path / f"short.{name}"
    for size in [*range(60, len(data), 97), len(data) - 1]:
        path.write_bytes(data[:size])
        start = max(box for box in boxes if box <= size)
        assert (cut_off(path) is None) == (name in ("clip.mp4", "clip.mov") and size - start < 8), size


def test_sizes_that_are_not_declared(tmp_path):
    path = tmp_path / "clip.mkv"
    header = b"\x1a\x45\xdf\xa3\x84abcd\x18\x53\x80\x67"
    for size in (b"\x01" + b"\xff" * 7, b"\xff", b"\x00", b""):  # unknown, unknown, too long, the file ends
        path.write_bytes(header + size)
        assert cut_off(path) is None
    path.write_bytes(header + b"\x41\x00data")
    assert cut_off(path) == "19 of 271 bytes"
    boxes = [
        b"\0\0\0\0mdat",
        b"\0\0\0\4mdat",
        b"\0\0\0\1mdat",
    ]
    for data in (b"", b"text" * 9, b"RIFF\xff\xff\xff\xffAVI ", *boxes):
        path.write_bytes(data)
        assert cut_off(path) is None
    path.write_bytes(b"\0\0\0\1mdat" + (1 << 40).to_bytes(8, "big") + b"data")
    assert cut_off(path) == f"20 of {1 << 40} bytes"
