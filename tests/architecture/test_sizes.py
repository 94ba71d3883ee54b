"""Files and functions stay small enough to be read at once."""

from tests.architecture.sources import SourceFile, planted, report, source_files

FILE_LINES = 400
FUNCTION_LINES = 60  # the aim is 40

# "room/file.py" or "room/file.py::Class.method": (lines, reason). Entries may shrink or go, never grow.
LONGER: dict[str, tuple[int, str]] = {}


def sizes(file: SourceFile) -> dict[str, tuple[int, int]]:
    """For the file and each function in it: its lines, and the limit. A function is counted from its `def`."""
    found = {file.path: (len(file.text.splitlines()), FILE_LINES)}
    for name, node in file.functions():
        found[f"{file.path}::{name}"] = ((node.end_lineno or node.lineno) - node.lineno + 1, FUNCTION_LINES)
    return found


def too_long(file: SourceFile, exceptions: dict[str, tuple[int, str]]) -> list[str]:
    """What is over its limit, or over the lines listed for it."""
    limits = {name: exceptions.get(name, (limit, ""))[0] for name, (_, limit) in sizes(file).items()}
    return [
        f"{name}: {lines} lines, at most {limits[name]}"
        for name, (lines, _) in sizes(file).items()
        if lines > limits[name]
    ]


def test_nothing_is_too_long():
    findings = [finding for file in source_files() for finding in too_long(file, LONGER)]
    assert not findings, report(findings)


def test_listed_exceptions_are_exact():
    every = {name: size for file in source_files() for name, size in sizes(file).items()}
    stale = [
        f"{name}: listed with {lines} lines; write what it has, or remove the entry"
        for name, (lines, _) in LONGER.items()
        if name not in every or every[name][0] != lines or lines <= every[name][1]
    ]
    assert not stale, report(stale)
    assert all(reason for _, reason in LONGER.values())


def test_what_is_too_long_is_found():
    method = "class A:\n    def b(self):\n" + "        pass\n" * 60
    assert too_long(planted(method), {}) == ["models/planted.py::A.b: 61 lines, at most 60"]
    assert too_long(planted("\n" * 401), {}) == ["models/planted.py: 401 lines, at most 400"]
    listed = {"models/planted.py::A.b": (61, "a table")}
    assert too_long(planted(method), listed) == []
    assert too_long(planted(method + "        pass\n"), listed) != []
