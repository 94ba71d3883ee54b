"""YAML 1.2 in, plain values and their places out; what is no configuration is refused with its line."""

from pathlib import Path

import pytest

from firstlight.base.errors import InputError
from firstlight.config.source import read_source
from tests.unit.config.yaml_file import written


def value(folder: Path, text: str) -> object:
    return read_source(written(folder, f"a: {text}\n")).values["a"]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1e-3", 0.001),
        ("3.0e-3", 0.003),
        ("-1E+5", -100000.0),
        ("1e5", 100000.0),
        (".5", 0.5),
        ("7", 7),
        ("1_000", 1000),
        ("0o17", 15),
        ("010", 10),
        ("0x1f", 31),
    ],
)
def test_numbers_are_those_of_yaml_1_2(tmp_path: Path, text: str, number: float) -> None:
    found = value(tmp_path, text)
    assert found == number
    assert type(found) is type(number)


@pytest.mark.parametrize(
    ("text", "plain"),
    [("true", True), ("yes", "yes"), ("on", "on"), ("null", None), ("~", None), ("1:30", "1:30"), ("'007'", "007")],
)
def test_words_are_those_of_yaml_1_2(tmp_path: Path, text: str, plain: object) -> None:
    found = value(tmp_path, text)
    assert found == plain
    assert type(found) is type(plain)


def test_a_number_in_quotes_is_text(tmp_path: Path) -> None:
    assert value(tmp_path, "'1e5'") == "1e5"


def test_containers_are_plain(tmp_path: Path) -> None:
    found = value(tmp_path, "{b: [1, {c: x}]}")
    assert found == {"b": [1, {"c": "x"}]}
    assert isinstance(found, dict)
    assert type(found) is dict
    assert type(found["b"]) is list
    assert type(found["b"][1]["c"]) is str


def test_every_key_and_item_knows_its_line(tmp_path: Path) -> None:
    source = read_source(written(tmp_path, "# first\na:\n  b: 1\n  c:\n    - x\n    - d: 2\n"))
    assert source.origins == {
        ("a",): "run.yaml:2",
        ("a", "b"): "run.yaml:3",
        ("a", "c"): "run.yaml:4",
        ("a", "c", 0): "run.yaml:5",
        ("a", "c", 1): "run.yaml:6",
        ("a", "c", 1, "d"): "run.yaml:6",
    }
    assert source.origin_of(("a", "c", 1, "e", "f")) == "run.yaml:6"
    assert source.origin_of(("z",)) is None


def test_a_merged_section_is_read(tmp_path: Path) -> None:
    source = read_source(written(tmp_path, "a: &x {b: 1, c: 2}\nd:\n  <<: *x\n  c: 3\n"))
    assert source.values["d"] == {"b": 1, "c": 3}
    assert source.origin_of(("d", "c")) == "run.yaml:4"
    assert source.origin_of(("d", "b")) == "run.yaml:2"


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "found duplicate key"),
        ("a:\n  b: 1\n  c: 2\n  b: 3\n", 4, "found duplicate key"),
        ("a:\n\tb: 1\n", 2, "found character"),
        ("a: [1, 2\nb: 3\n", 2, "expected ',' or ']'"),
        ("a: *nowhere\n", 1, "undefined alias"),
        ("a: 1\n---\nb: 2\n", 2, "another document"),
        ("a: b: c\n", 1, "not allowed here"),
    ],
)
def test_what_is_not_yaml_is_refused_with_its_line(tmp_path: Path, text: str, line: int, what: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_source(path)
    assert str(caught.value).startswith(f"{path}:{line}: not valid YAML: ")
    assert what in str(caught.value)


def test_a_foreign_tag_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run.yaml"):
        read_source(written(tmp_path, "a: !!python/object/apply:os.system ['x']\n"))


@pytest.mark.parametrize("text", ["", "# only a remark\n", "- a\n- b\n", "word\n", "---\n"])
def test_a_file_without_sections_is_refused(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError) as caught:
        read_source(path)
    assert str(caught.value) == f"{path}: holds no configuration; expected sections such as `model:` and `data:`"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_source(tmp_path / "none.yaml")
    assert str(caught.value) == f"configuration file {tmp_path / 'none.yaml'} does not exist"


def test_what_is_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"configuration file .* cannot be read: .*directory"):
        read_source(tmp_path)
    (tmp_path / "run.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(InputError, match=r"run\.yaml cannot be read: .*utf-8"):
        read_source(tmp_path / "run.yaml")
