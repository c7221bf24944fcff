"""Measures the operators against their peers: python benchmarks/run.py [--quick] [operator ...]"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import torch
from _harness import THREADS, Settings, facts, markdown, run_cases, to_json
from _torchvision import which

OPERATORS = sorted(path.stem.removeprefix("bm_") for path in Path(__file__).parent.glob("bm_*.py"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the operators against their peers.")
    parser.add_argument("operators", nargs="*", metavar="operator", help=f"of {', '.join(OPERATORS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="small cases, little time each")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    args = parser.parse_args()
    if unknown := sorted(set(args.operators) - set(OPERATORS)):
        parser.error(f"unknown operator {', '.join(unknown)}; there are {', '.join(OPERATORS)}")

    torch.set_num_threads(THREADS)
    settings = Settings(args.device, args.quick)
    circumstances = facts(settings) | {"torchvision": which(args.device)}
    print(", ".join(f"{name} {value}" for name, value in circumstances.items()), flush=True)
    rows = []
    for operator in args.operators or OPERATORS:
        rows += run_cases(operator, importlib.import_module(f"bm_{operator}").cases(settings), settings)
    if args.json:
        args.json.write_text(to_json(rows, circumstances))
    if args.markdown:
        args.markdown.write_text(markdown(rows, circumstances))


if __name__ == "__main__":
    main()
