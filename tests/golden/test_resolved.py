"""What a configuration means does not change unnoticed: defaults and derived values are kept in a file.

When a change is meant, `python -m tests.golden.rewrite` writes the files anew.
"""

import pytest

from tests.architecture.sources import ROOT
from tests.golden.resolved import EXAMPLES, golden_file, resolved


def test_every_example_has_a_golden_file() -> None:
    assert set(EXAMPLES) == {path.stem for path in (ROOT / "examples").glob("*.yaml")}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_resolves_as_it_did(name: str) -> None:
    assert resolved(name) == golden_file(name).read_text(encoding="utf-8"), (
        "if this was meant: python -m tests.golden.rewrite"
    )
