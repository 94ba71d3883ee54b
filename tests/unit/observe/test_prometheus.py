import math
import urllib.error
import urllib.request

import pytest

from firstlight.observe.prometheus import CONTENT_TYPE, Prometheus, exposition


def test_the_newest_figures_are_served_on_loopback() -> None:
    sink = Prometheus(0)
    sink.open(0)
    try:
        sink.write_step({"step": 1, "loss": 5.0})
        sink.write_step({"step": 2, "loss": 4.5, "expert_load/max_vio": 0.25})
        sink.write_evaluation({"step": 2, "tokens": 9, "evaluate/wiki-en/loss": 4.75})
        address = f"http://127.0.0.1:{sink.port}"
        with urllib.request.urlopen(f"{address}/metrics", timeout=10) as answer:
            assert answer.headers["Content-Type"] == CONTENT_TYPE
            lines = answer.read().decode().splitlines()
        assert lines[:4] == [
            "# TYPE firstlight_step gauge",
            "firstlight_step 2.0",
            "# TYPE firstlight_loss gauge",
            "firstlight_loss 4.5",
        ]
        assert "firstlight_expert_load_max_vio 0.25" in lines
        assert "firstlight_evaluate_wiki_en_loss 4.75" in lines
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{address}/other", timeout=10)
    finally:
        sink.close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{address}/metrics", timeout=2)


def test_numbers_that_are_not_finite_have_words_of_their_own() -> None:
    values = [line.split()[1] for line in exposition({"a": math.nan, "b": math.inf, "c": -math.inf}).splitlines()[1::2]]
    assert values == ["NaN", "+Inf", "-Inf"]


def test_a_port_that_is_taken_is_an_error_at_the_start() -> None:
    first = Prometheus(0)
    first.open(0)
    try:
        with pytest.raises(OSError, match="in use"):
            Prometheus(first.port).open(0)
    finally:
        first.close()
