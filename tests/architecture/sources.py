"""The package's source files, parsed once; what the tests of this folder look at."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "firstlight"

Function = ast.FunctionDef | ast.AsyncFunctionDef
Imports = ast.Import | ast.ImportFrom


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One file of the package; `path` is relative to it, as in `base/world.py`."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @cached_property
    def names(self) -> dict[str, str]:
        """What each imported name stands for: `{"np": "numpy", "load": "torch.load"}`."""
        found: dict[str, str] = {}
        for node in self.nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    root = alias.name.split(".")[0]
                    found[alias.asname or root] = alias.name if alias.asname else root
            elif isinstance(node, ast.ImportFrom):
                found.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
        return found

    def dotted(self, node: ast.AST) -> str:
        """`np.random.seed` as `numpy.random.seed`; empty where the expression is no chain of names."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name):
            return ""
        return ".".join([self.names.get(node.id, node.id), *reversed(parts)])

    def at(self, node: ast.AST, what: str) -> str:
        """A finding, with its place."""
        return f"{self.path}:{getattr(node, 'lineno', 1)}: {what}"

    def functions(self) -> Iterator[tuple[str, Function]]:
        """Every function, with its name as in `Class.method`."""
        yield from _functions(self.tree, "")


def _functions(parent: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, Function):
            yield prefix + node.name, node
        inner = f"{prefix}{node.name}." if isinstance(node, Function | ast.ClassDef) else prefix
        yield from _functions(node, inner)


def imported_modules(node: ast.AST) -> list[str]:
    """The modules that an import statement names; none for any other node."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or "."]
    return []


@lru_cache
def source_files() -> tuple[SourceFile, ...]:
    """All Python files of the package."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return tuple(SourceFile(path=path.relative_to(PACKAGE).as_posix(), text=path.read_text("utf-8")) for path in paths)


def planted(text: str, path: str = "models/planted.py") -> SourceFile:
    """A file that is not there, to see a check fail."""
    return SourceFile(path=path, text=text)


def report(findings: list[str]) -> str:
    """One finding a line, for the message of an assertion."""
    return "\n" + "\n".join(findings)
