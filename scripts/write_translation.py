"""Writes the tables of docs/guides/from-mindspore-transformers.md from the translation table, and the translated
examples beside it: `make docs`."""

from collections.abc import Iterator
from pathlib import Path

from firstlight.compat.old_file import Generation
from firstlight.compat.row import Outcome, Row
from firstlight.compat.table import TABLE
from firstlight.compat.translation import translate

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "guides" / "from-mindspore-transformers.md"
BEGIN = "<!-- The rest of this page is written by `make docs`. -->\n"
HOME = ROOT / "src" / "firstlight" / "compat" / "home" / "research" / "deepseek3" / "deepseek3_671b"
EXAMPLES = ROOT / "examples" / "from-mindformers"
SIZES = ("1b", "671b")

HEADS = {
    "graph": "## Keys of the graph schemas (`runner_config`, `parallel_config` ...)",
    "pynative": "## Keys of the PyNative schema (`training`, `parallelism` ...)",
}


def rows(name: str) -> list[Row]:
    """The rows of a head, each once. The core graph schema differs from the legacy one in `moe_config` alone."""
    return list(TABLE[Generation.LEGACY if name == "graph" else Generation.PYNATIVE])


def section_of(row: Row) -> str:
    """What stands before the last part of a key."""
    return row.key.removesuffix(".**").rpartition(".")[0]


def lines_of(section: str, members: list[Row]) -> Iterator[str]:
    """One line for each key here, and one for each reason of what is left out."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for row in members:
        name = row.key.removeprefix(f"{section}.") if section else row.key
        target = f"`{row.to}`" if row.to else row.outcome.value
        how = row.text or "as it is"
        if row.outcome is Outcome.REFUSED:
            how = f"{how} (unless {', '.join(dict.fromkeys(map(shown, row.harmless)))})"
        groups.setdefault((row.outcome.value, target, how), []).append(f"`{name}`")
    for (_, target, how), names in groups.items():
        yield f"| {', '.join(names)} | {target} | {how.replace('|', chr(92) + '|')} |"


def shown(value: object) -> str:
    """A value as YAML writes it."""
    if value is None:
        return "null"
    if value == "":
        return "empty"
    return str(value).lower() if isinstance(value, bool) else str(value)


def tables() -> str:
    """The generated part of the page."""
    parts: list[str] = []
    for name, head in HEADS.items():
        parts += [head, ""]
        sections: dict[str, list[Row]] = {}
        for row in rows(name):
            sections.setdefault(section_of(row), []).append(row)
        for section, members in sections.items():
            parts += [f"### {f'`{section}`' if section else 'Top level'}", ""]
            parts += ["| key | here | how, or why |", "| --- | --- | --- |", *lines_of(section, members), ""]
    return "\n".join(parts)


def page(written: str) -> str:
    """The page with its generated part made anew."""
    return written.partition(BEGIN)[0] + BEGIN + "\n" + tables()


def example(size: str) -> str:
    """The translation of one of our own MindFormers files."""
    return translate(HOME / f"pretrain_deepseek3_{size}.yaml").text


def main() -> None:
    """Write the page and the examples."""
    TARGET.write_text(page(TARGET.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {TARGET.relative_to(ROOT)}")
    for size in SIZES:
        path = EXAMPLES / f"pretrain_deepseek3_{size}.yaml"
        path.write_text(example(size), encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
