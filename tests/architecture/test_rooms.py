"""Rooms import what their row in docs/development/rooms.md allows, and torch-free rooms load without torch."""

import configparser
import subprocess
import sys

import pytest

from tests.architecture.sources import PACKAGE, ROOT

TABLE = ROOT / "docs" / "development" / "rooms.md"
TORCH_FREE = ("base", "config", "layout", "compat", "resilience", "plan", "data")

IMPORT_WITHOUT_TORCH = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    root = importlib.import_module(name)
    modules = [name, *(m.name for m in pkgutil.walk_packages(getattr(root, "__path__", []), name + "."))]
    for module in modules:
        importlib.import_module(module)
        if "torch" in sys.modules:
            sys.exit(f"{module} imports torch")
"""


def rooms() -> list[str]:
    """The rooms that have a folder."""
    return sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def table() -> dict[str, tuple[set[str], bool]]:
    """For each row: the existing rooms that it may import, and whether it may import torch."""
    lines = [line for line in TABLE.read_text("utf-8").splitlines() if line.startswith("| `")]
    cells = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    return {room: (_allowed(may) & set(rooms()) - {room}, torch == "yes") for room, _, may, torch in cells}


def _allowed(may: str) -> set[str]:
    if may == "-":
        return set()
    if may.startswith("all"):
        return set(rooms()) - set(may.removeprefix("all").removeprefix(" but ").split(", "))
    return set(may.split(", "))


def contracts() -> dict[str, tuple[set[str], set[str]]]:
    """For each contract of `.importlinter`: its sources and what it forbids them."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / ".importlinter", "utf-8")
    names = [name for name in parser.sections() if ":contract:" in name]
    return {
        name.rsplit(":", 1)[1]: (
            set(parser[name]["source_modules"].replace("firstlight.", "").split()),
            set(parser[name]["forbidden_modules"].replace("firstlight.", "").split()),
        )
        for name in names
    }


def loads_without_torch(name: str, *search_path: str) -> str:
    """Import the module and all below it in a new process; returns the complaint, or an empty string."""
    code = f"import sys; sys.path[:0] = {list(search_path)!r}\n" + IMPORT_WITHOUT_TORCH
    done = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, timeout=120, check=False)
    return "" if done.returncode == 0 else done.stderr.strip() or f"exit code {done.returncode}"


def test_every_room_has_a_row():
    assert set(rooms()) <= set(table())


@pytest.mark.parametrize("room", [room for room in rooms() if room != "cli"])
def test_contract_is_the_row_of_the_table(room):
    allowed, _ = table()[room]
    sources, forbidden = contracts()[room]
    assert sources == {room}
    assert forbidden == set(rooms()) - allowed - {room}


def test_torch_free_rooms_are_those_of_the_table():
    free = {room for room, (_, may_import_torch) in table().items() if not may_import_torch} & set(rooms())
    assert free == set(TORCH_FREE)
    assert contracts()["torch_free"] == (free, {"torch"})


@pytest.mark.parametrize("name", [*(f"firstlight.{room}" for room in TORCH_FREE), "firstlight.cli.main"])
def test_loads_without_torch(name):
    assert loads_without_torch(name) == ""


def test_a_room_that_imports_torch_is_found(tmp_path):
    package = tmp_path / "planted_room"
    package.mkdir()
    (package / "__init__.py").write_text('"""A room."""\n')
    (package / "noun.py").write_text("import torch\n")
    (tmp_path / "torch.py").write_text('"""Stands for the real one."""\n')
    assert loads_without_torch("planted_room", str(tmp_path)) == "planted_room.noun imports torch"
