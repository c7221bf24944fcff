"""Recognizes video files that are cut off, as by a download that ended early.

A cut between two frames, or in the sound, is no error to a decoder: only the sizes in the file's structure show it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

_BOXES = frozenset(b"ftyp styp moov moof mfra mdat free skip wide uuid meta udta pnot sidx emsg prft".split())
"""Types of a box at the top level of MP4 and MOV files."""

_UNKNOWN = 2**32 - 1
"""Size of a RIFF chunk that was streamed."""


def cut_off(path: Path) -> str | None:
    """``"7386 of 12311 bytes"`` of a file that is shorter than its structure says; None of any other one.

    For MP4 and MOV (sizes of boxes), Matroska and WebM (size of the segment), and AVI (size of the RIFF chunk). Files
    that were streamed may be without these sizes.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(12)
        if start[:4] == b"\x1a\x45\xdf\xa3":
            declared = _matroska_end(file)
        elif start[:4] == b"RIFF":
            length = int.from_bytes(start[4:8], "little")
            declared = 0 if length == _UNKNOWN else 8 + length
        elif start[4:8] in _BOXES:
            declared = _boxes_end(file, size)
        else:
            return None
    return f"{size} of {declared} bytes" if declared > size else None


def _boxes_end(file: BinaryIO, size: int) -> int:
    """Where the last box ends; ISO/IEC 14496-12, 4.2."""
    end = 0
    while end < size:
        file.seek(end)
        header = file.read(16)
        if header[4:8] not in _BOXES:  # data after the boxes, or the rest of a header
            break
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length < 8:  # 0: to the end of the file
            break
        end += length
    return end


def _matroska_end(file: BinaryIO) -> int:
    """Where the segment ends; 0 if it does not say so. RFC 8794 and RFC 9559."""
    file.seek(4)
    header = _ebml_size(file)
    if header is None:
        return 0
    file.seek(header, os.SEEK_CUR)
    if file.read(4) != b"\x18\x53\x80\x67":
        return 0
    segment = _ebml_size(file)
    return 0 if segment is None else file.tell() + segment


def _ebml_size(file: BinaryIO) -> int | None:
    """A size of one to eight bytes; None of an unknown one, whose bits are all 1."""
    first = int.from_bytes(file.read(1), "big")
    if first == 0:
        return None
    more = 8 - first.bit_length()
    bits = 7 * (more + 1)
    value = int.from_bytes(bytes([first]) + file.read(more), "big") & ((1 << bits) - 1)
    return None if value == (1 << bits) - 1 else value
