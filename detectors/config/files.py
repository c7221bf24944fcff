"""Configuration files: YAML or JSON (such as the config.json of a run), with the sections of settings.py.

preset: fcos_minus_r50_mlc      # optional: the settings below change it
data: {data: COCO, short_side: [640, 672, 704, 736, 768, 800], workers: 8}
schedule:
  batch_size: 8
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 2**20
"""Larger files are refused."""


class _Loader(yaml.SafeLoader):
    """Loads plain data only. A duplicate key is an error; yaml.SafeLoader would use the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} appears twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_config_file(path: Path) -> tuple[str | None, dict[str, Any]]:
    """-> (the name of the file's preset or None, its sections for :func:`mlc_ext.detectors.config.overrides.update`).

    Raises:
        FileNotFoundError: no such file.
        ValueError: not YAML, or not sections of settings.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no configuration file {path}")
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES} bytes: not a configuration file")
    try:
        content = yaml.load(data, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return None, {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} must contain sections of settings, got a {type(content).__name__}")
    preset = content.pop("preset", None)
    if preset is not None and not isinstance(preset, str):
        raise ValueError(f"{path}: preset must be a name, got {preset!r}")
    return preset, content
