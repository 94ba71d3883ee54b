"""One concept, one name: no nondescript files and classes, no forbidden twins of the words in docs/glossary.md."""

import ast
import io
import re
import tokenize
from pathlib import PurePosixPath

import pytest

from tests.architecture.sources import ROOT, SourceFile, planted, report, source_files

GLOSSARY = ROOT / "docs" / "glossary.md"
FILE_NAMES = re.compile(r"(utils?|helpers?|common|misc|base_.*)\.py")
CLASS_NAMES = re.compile(r".*(Manager|Handler)")


def twins() -> dict[str, str]:
    """Each word that is not used, with the one to use: the last and the first column of the glossary's table."""
    rows = [line.strip("|").split("|") for line in GLOSSARY.read_text("utf-8").splitlines() if line.startswith("| `")]
    return {twin: use.strip().strip("`") for use, _, forbidden in rows for twin in re.findall(r"`(\w+)`", forbidden)}


def nondescript(file: SourceFile) -> list[str]:
    """Names of files and classes that do not say what they are."""
    name = PurePosixPath(file.path).name
    files = [f"{file.path}: name the noun that it is about"] if FILE_NAMES.fullmatch(name) else []
    classes = [n for n in file.nodes if isinstance(n, ast.ClassDef) and CLASS_NAMES.fullmatch(n.name)]
    return files + [file.at(node, f"class {node.name}: say what it does") for node in classes]


def forbidden_twins(file: SourceFile) -> list[str]:
    """Identifiers that the glossary has another word for. Foreign names are at home in `compat/` and name tables."""
    if file.path.startswith("compat/") or PurePosixPath(file.path).name == "names.py":
        return []
    known = twins()
    tokens = tokenize.generate_tokens(io.StringIO(file.text).readline)
    found = [token for token in tokens if token.type == tokenize.NAME and token.string in known]
    return [f"{file.path}:{token.start[0]}: {token.string}; use {known[token.string]}" for token in found]


def without_docstring(file: SourceFile) -> list[str]:
    """The file itself, when it does not open with what it is for."""
    return [] if ast.get_docstring(file.tree) else [f"{file.path}: open with what the file is for"]


@pytest.mark.parametrize("check", [nondescript, forbidden_twins, without_docstring], ids=lambda check: check.__name__)
def test_package(check):
    findings = [finding for file in source_files() for finding in check(file)]
    assert not findings, report(findings)


def test_glossary_contradicts_itself_nowhere():
    rows = [line.strip("|").split("|") for line in GLOSSARY.read_text("utf-8").splitlines() if line.startswith("| `")]
    used = {name for use, _, _ in rows for name in re.findall(r"`(\w+)`", use)}
    assert len(twins()) > 20
    assert not used & set(twins())


@pytest.mark.parametrize("name", ["utils.py", "helpers.py", "common.py", "misc.py", "base_model.py"])
def test_nondescript_file_is_found(name):
    assert nondescript(planted("", f"data/{name}"))


@pytest.mark.parametrize("name", ["CheckpointManager", "SignalHandler"])
def test_nondescript_class_is_found(name):
    assert nondescript(planted(f"class {name}:\n    pass\n"))


def test_forbidden_twin_is_found():
    text = "def run(mp_size):\n    return self.iteration\n"
    assert forbidden_twins(planted(text)) == [
        "models/planted.py:1: mp_size; use tensor_parallel",
        "models/planted.py:2: iteration; use step",
    ]
    assert forbidden_twins(planted(text, "models/llama/names.py")) == []
    assert forbidden_twins(planted("# an iteration\nname = 'iteration'\niterations_per_x = 1\n")) == []


def test_missing_docstring_is_found():
    assert without_docstring(planted("import os\n"))
