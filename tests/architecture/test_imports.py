"""Imports stand at the top of the file, so that what a file needs is seen and its order is checked."""

import ast

import pytest

from tests.architecture.sources import Imports, SourceFile, imported_modules, planted, report, source_files

# (file or folder, what it imports, reason): the only imports that may stand inside a function.
INSIDE_A_FUNCTION = (
    ("cli/", "firstlight", "a verb imports what it calls, so that the others and --help answer without torch"),
    ("checkpoint/object_store.py", "fsspec", "an extra, used only where checkpoint.copy_to is set"),
    ("observe/mlflow.py", "mlflow", "an extra, used only when the sink is chosen"),
    ("observe/tensorboard.py", "tensorboard", "slow to load, and used only when the sink is chosen"),
    ("observe/wandb.py", "wandb", "an extra, used only when the sink is chosen"),
)


def listed(path: str, module: str) -> tuple[str, str, str] | None:
    """The entry that allows `module` to be imported inside a function of `path`."""
    for entry in INSIDE_A_FUNCTION:
        if path.startswith(entry[0]) and f"{module}.".startswith(f"{entry[1]}."):
            return entry
    return None


def inner_imports(file: SourceFile) -> list[tuple[ast.AST, str]]:
    """Every import inside a function, with the module that it names."""
    inside = {node for _, function in file.functions() for node in ast.walk(function) if isinstance(node, Imports)}
    return [(node, module) for node in sorted(inside, key=lambda n: n.lineno) for module in imported_modules(node)]


def misplaced(file: SourceFile) -> list[str]:
    """Imports inside functions that are not listed."""
    found = [(node, module) for node, module in inner_imports(file) if not listed(file.path, module)]
    return [file.at(node, f"{module} is imported inside a function") for node, module in found]


def test_imports_are_at_the_top():
    findings = [finding for file in source_files() for finding in misplaced(file)]
    assert not findings, report(findings)


def test_listed_imports_are_still_there():
    used = {listed(file.path, module) for file in source_files() for _, module in inner_imports(file)}
    stale = [f"{path}: {module} is listed and not there" for path, module, _ in set(INSIDE_A_FUNCTION) - used]
    assert not stale, report(stale)


@pytest.mark.parametrize(
    "text", ["def a():\n    import numpy", "class A:\n    def b(self):\n        from numpy import c"]
)
def test_misplaced_import_is_found(text):
    assert misplaced(planted(text))


def test_listed_import_is_not_found():
    text = "def train():\n    from firstlight.train.assemble import run"
    assert misplaced(planted(text, "cli/train.py")) == []
    assert misplaced(planted(text, "observe/console.py"))
