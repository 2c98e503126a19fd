"""The structure in four numbers: rooms, floors, arrows, and arrows that run up.

python -m tests.structure            # of this checkout
python -m tests.structure FOLDER     # of another one

A room is flows, tasks, or a module or package directly in lib. An arrow goes from a room to one that it imports from. A
room stands one floor above the highest room that it imports from; arrows within a circle of rooms run up.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp

Arrows = Mapping[str, set[str]]  # room → rooms that it imports from


def arrows(folder: Path) -> Arrows:
    """The arrows between the rooms of a checkout, read from its imports."""
    sys.path.insert(0, str(folder.resolve()))
    graph = grimp.build_graph("flows", "tasks", "lib", cache_dir=None)
    found: dict[str, set[str]] = {room_of(module): set() for module in graph.modules if module != "lib"}
    for module in graph.modules - {"lib"}:
        used = graph.find_modules_directly_imported_by(module) - {"lib"}
        found[room_of(module)] |= {room_of(one) for one in used} - {room_of(module)}
    return found


def room_of(module: str) -> str:
    """lib.painting.generate → lib.painting; tasks.draw → tasks."""
    return ".".join(module.split(".")[: 2 if module.startswith("lib.") else 1])


def floors(graph: Arrows) -> tuple[dict[str, int], int]:
    """The floor of each room, from 0, and how many arrows run up: those left out so that there is no circle."""
    graph, up = {room: set(used) for room, used in graph.items()}, 0
    while True:
        try:
            order = list(TopologicalSorter(graph).static_order())
            break
        except CycleError as error:
            lower, upper = error.args[1][:2]  # upper imports lower
            graph[upper].discard(lower)
            up += 1
    floor: dict[str, int] = {}
    for room in order:
        floor[room] = 1 + max((floor[used] for used in graph[room]), default=-1)
    return floor, up


def main() -> None:
    """Print the floors from high to low, then the four numbers."""
    graph = arrows(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
    floor, up = floors(graph)
    for level in sorted(set(floor.values()), reverse=True):
        print(f"{level:3}  " + "  ".join(sorted(room for room in floor if floor[room] == level)))
    count = sum(len(used) for used in graph.values())
    print(f"{len(floor)} rooms on {max(floor.values()) + 1} floors, {count} arrows, {up} running up")


if __name__ == "__main__":
    main()
