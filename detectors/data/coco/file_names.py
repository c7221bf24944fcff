"""The file names of a JSON: what is a name, and which lead out of the image folder."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

# ..\..\label-studio\media\upload\4\0a1b2c3d-a.png, /data/upload/4/0a1b2c3d-a.png, /data/local-files/?d=photos/a.png
_LABEL_STUDIO = re.compile(r"(?:^|.*/)(?:(?:data|media)/upload/(?=\d+/[^/]+$)|data/local-files/\?d=)")


def is_file_name(name: Any) -> bool:
    """Whether it is text that can be a file's name."""
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    try:
        name.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: on no disk, and printing it would fail
        return False
    return True


def leads_out(name: str) -> bool:
    """Whether a name could lead out of the image folder, on any system.

    Only the text of the name is looked at: links in the folder belong to its owner and are followed.
    """
    windows = PureWindowsPath(name)
    return bool(PurePosixPath(name).is_absolute() or windows.drive or windows.root or ".." in windows.parts)


def inner_name(name: str, source: Path) -> str:
    """The name in the image folder that Label Studio means by the path or URL of its own storage: the part of the path
    below the storage.

    ValueError, naming the JSON ``source``, for any other name that leads out of the image folder.
    """
    path = name.replace("\\", "/")
    storage = _LABEL_STUDIO.match(path)
    inner = path[storage.end() :] if storage else ""
    if not inner or leads_out(inner):
        raise ValueError(f"{source}: file_name {name!r} leads out of the image folder")
    return inner
