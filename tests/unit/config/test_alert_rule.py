import math

import pytest

from firstlight.config.alert_rule import parse_alert_rule
from firstlight.config.monitor import AlertConfig

FIGURES = {"loss": 5.0, "mfu": 0.2, "expert_load/max_vio": 2.5, "evaluate/wiki-en.2/loss": 3.0, "nan": math.nan}


def no_median(_name: str) -> None:
    return None


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("loss > 4", True),
        ("loss > 5", False),
        ("loss >= 5", True),
        ("loss<5.1", True),
        ("loss <= 5e0", True),
        ("expert_load/max_vio > 2", True),
        ("evaluate/wiki-en.2/loss > 2.5", True),
        ("loss - mfu * 10 > 2.9", True),
        ("loss - mfu * 10 > 3", False),
        ("(loss - mfu) * 10 > 47", True),
        ("loss / 2 / 2 < 1.26", True),
        ("-loss < -4", True),
        ("2 * -loss < 0", True),
        ("loss / 0 > 1", True),
        ("nan > 1e9", True),
        ("mfu < loss", True),
        (".5 > mfu", True),
    ],
)
def test_rule_is_judged(text: str, *, holds: bool) -> None:
    assert parse_alert_rule(text).holds(FIGURES, no_median) is holds


def test_median_is_that_of_the_first_name_or_of_the_one_in_brackets() -> None:
    medians = {"mfu": 0.5, "loss": 6.0}
    assert parse_alert_rule("mfu < 0.8 * median").holds(FIGURES, medians.get) is True
    assert parse_alert_rule("mfu < 0.3 * median").holds(FIGURES, medians.get) is False
    assert parse_alert_rule("0.8 * median > mfu").holds(FIGURES, medians.get) is True
    assert parse_alert_rule("mfu * 20 > median(loss)").holds(FIGURES, medians.get) is False
    assert parse_alert_rule("mfu < 0.8 * median").holds(FIGURES, no_median) is None


def test_a_figure_that_is_not_there_leaves_the_rule_open() -> None:
    rule = parse_alert_rule("loss > other + 1")
    assert rule.holds(FIGURES, no_median) is None
    assert rule.names() == ["loss", "other"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("loss", "expected one of < <= > >= at the end"),
        ("loss >", "expected a number, a name or ( at the end"),
        ("> 3", "expected a number, a name or ( at '> 3', character 1"),
        ("loss > 3 4", "expected the end at '4', character 10"),
        ("loss > (3", "expected ) at the end"),
        ("loss = 3", "'= 3' is no part of a rule, character 6"),
        ("__import__('os')", "is no part of a rule"),
        ("1 < 2", "compares numbers alone"),
        ("median > 2", "median of what?"),
        ("loss > 2 > 1", "expected the end at '> 1'"),
        ("", "at the end"),
    ],
)
def test_what_is_no_rule_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=".*") as caught:
        parse_alert_rule(text)
    assert said in str(caught.value)


def test_configuration_refuses_what_cannot_be_done() -> None:
    for bad in (
        {"when": "loss >"},
        {"when": "loss > 1", "webhook": "file:///etc/passwd"},
        {"when": "a>1", "command": ()},
    ):
        with pytest.raises(ValueError, match="1 validation error"):
            AlertConfig.model_validate(bad)
    assert AlertConfig(when="loss > 1", webhook="http://127.0.0.1:1/x").webhook == "http://127.0.0.1:1/x"
