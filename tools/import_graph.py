"""Imports inside a package: counts, circles, and the longest file. Exit code 1 if modules or rooms import in a circle.

    python tools/import_graph.py detectors mlc_ext

A room is a folder or a module directly in the package. Without circles between rooms, every import goes down: each room
stands above all that it imports. Imports for types alone (`if TYPE_CHECKING:`) count too.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

Graph = Mapping[str, set[str]]


INSTALLED = {"detectors": "mlc_ext.detectors"}
"""Folders whose package has another name."""


def imports(tree: ast.AST, package: str, module: str, is_package: bool) -> Iterator[tuple[str, str]]:
    """Imports of a module from its own package: (the module, the name taken from it), from the package's folder."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = node.module.split(".") if node.module else []
            if node.level:
                parts = module.split(".")
                base = parts[: len(parts) - node.level + is_package] + base
            elif ".".join(base) == package or ".".join(base).startswith(f"{package}."):
                base = base[package.count(".") + 1 :]
            else:
                continue
            yield from ((".".join(base), alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name.removeprefix(f"{package}."), "") for alias in node.names
                        if alias.name.startswith(f"{package}."))  # fmt: skip


def module_graph(folder: Path) -> tuple[Graph, dict[str, int]]:
    """-> ({module: modules that it imports}, {module: lines}); the package's own __init__ is left out."""
    files = {".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__"): path
             for path in folder.rglob("*.py") if path != folder / "__init__.py"}  # fmt: skip
    graph, package = {}, INSTALLED.get(folder.name, folder.name)
    for module, path in files.items():
        found = imports(ast.parse(path.read_text()), package, module, path.name == "__init__.py")
        candidates = ((f"{base}.{name}".strip("."), base) for base, name in found)
        graph[module] = {whole if whole in files else base for whole, base in candidates} & files.keys() - {module}
    return graph, {module: len(path.read_text().splitlines()) for module, path in files.items()}


def rooms(graph: Graph) -> Graph:
    """The same between rooms."""
    found: dict[str, set[str]] = {}
    for module, targets in graph.items():
        room = module.partition(".")[0]
        found.setdefault(room, set()).update(target.partition(".")[0] for target in targets)
    return {room: targets - {room} for room, targets in found.items()}


def circle(graph: Graph) -> list[str]:
    """A circle, or nothing."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def floors(graph: Graph) -> int:
    """The length of the longest chain of rooms, each importing the next."""
    height: dict[str, int] = {}
    for room in TopologicalSorter(graph).static_order():
        height[room] = 1 + max((height[target] for target in graph[room]), default=0)
    return max(height.values(), default=0)


def main(folders: list[str]) -> int:
    failed = False
    for folder in folders:
        graph, lines = module_graph(Path(folder))
        by_room = rooms(graph)
        circles = [found for found in (circle(graph), circle(by_room)) if found]
        longest = max(lines, key=lines.__getitem__)
        print(
            f"{folder}: {len(graph)} modules, {sum(map(len, graph.values()))} imports, {len(by_room)} rooms, "
            f"{sum(map(len, by_room.values()))} imports between rooms"
            + ("" if circles else f" on {floors(by_room)} floors, no circle")
            + f"; {sum(lines.values())} lines, the longest file {longest} with {lines[longest]}"
        )
        for found in circles:
            print(f"  circle: {' -> '.join(found)}")
        failed |= bool(circles)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
