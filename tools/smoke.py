"""What an installed mlc_ext must be able to do, in seconds: used by the wheel and develop checks.

usage: python smoke.py FOLDER [--jit]    mlc_ext must have been imported from under FOLDER; its operators must be the
                                         installed ones, or with --jit must not be
"""

import sys
from pathlib import Path

import torch

import mlc_ext


def main(folder: str, jit: bool) -> None:
    info = mlc_ext.build_info()
    package, module = Path(mlc_ext.__file__).resolve(), Path(info["module"]).resolve()
    assert package.is_relative_to(Path(folder).resolve()), f"mlc_ext comes from {package}, not from under {folder}"
    assert module.is_relative_to(package.parent) != jit, f"operators come from {module}"
    assert info["version"] == info["built_version"] == mlc_ext.__version__, info

    values, ids = torch.tensor([0.8, 0.1, 0.5, 0.9, 0.2]), torch.tensor([0, 0, 1, 0, 0])
    assert mlc_ext.segmented_otsu(values, ids, 2).tolist() == values[[4, 2]].tolist()
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 6], [9, 9, 10, 10]])
    assert mlc_ext.box_iou(boxes[:1], boxes[2:]).item() == 0
    keep = mlc_ext.rescored_nms(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0.5, 1.0, 0.25]), None, 0.5)
    assert keep.tolist() == [1, 2], keep
    assert torch.ops.mlc_ext.box_iou(boxes, boxes).diagonal().eq(1).all()
    print(f"mlc_ext {info['version']} from {package.parent}, operators {module.name}, torch {torch.__version__}: works")


if __name__ == "__main__":
    main(sys.argv[1], "--jit" in sys.argv[2:])
