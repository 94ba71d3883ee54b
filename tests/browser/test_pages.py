"""The report and the live page in a real browser: charts drawn, values those of metrics.jsonl, no complaint."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from firstlight.observe.jsonl import read_metrics
from firstlight.observe.live_page import served
from firstlight.observe.report import write_report
from tests.browser.pages import browser, complaints, drawn, require_browser
from tests.runs import make_tiny_run, wait_until
from tests.unit.observe.live import LAYERS, add_everything, add_step
from tests.unit.observe.synthetic import record_run

pytestmark = pytest.mark.slow

SINGLE = ("Learning rate", "Gradient norm", "Throughput", "Model FLOPs utilisation")
FIGURE_OF = {
    "Learning rate": "learning_rate",
    "Gradient norm": "grad_norm",
    "Throughput": "tokens_per_second",
    "Model FLOPs utilisation": "mfu",
}


@pytest.fixture(scope="module")
def window() -> Iterator[Any]:
    require_browser()
    with browser() as one:
        yield one


@pytest.fixture
def driver(window: Any) -> Any:
    """The window, empty: the page of the test before, and what it said, are gone."""
    window.get("about:blank")
    window.get_log("browser")
    return window


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_everything(record_run(tmp_path_factory.mktemp("browser") / "run"))


def steps_of(run: Path) -> list[dict[str, Any]]:
    return [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "step"]


def wait_for(driver: Any, script: str, timeout: float = 60) -> None:
    end = time.monotonic() + timeout
    while not driver.execute_script(f"return Boolean({script})"):
        assert time.monotonic() < end, f"not so within {timeout} s: {script}"
        time.sleep(0.2)


def test_every_chart_of_the_report_is_drawn_with_the_values_of_the_metrics(
    driver: Any, run: Path, tmp_path: Path
) -> None:
    driver.get(write_report([run], tmp_path / "report.html").as_uri())
    charts, steps = drawn(driver), steps_of(run)
    assert {"Loss", "Events", "Expert load by layer", "Step time by rank", "Gradient norm by group"} <= set(charts)
    assert not [title for title, chart in charts.items() if not chart["shapes"] or chart["width"] < 200]
    (training, _) = charts["Loss"]["traces"]
    assert training["x"] == [line["step"] for line in steps]
    assert training["y"] == [line["loss/lm"] for line in steps]
    for title in SINGLE:
        assert charts[title]["traces"][0]["y"] == [line[FIGURE_OF[title]] for line in steps], title
    (experts,) = charts["Expert load by layer"]["traces"]
    assert experts["z"] == [[line[f"expert_load/{layer}/max_vio"] for line in steps] for layer in LAYERS]
    assert complaints(driver) == []


def test_tokens_become_the_axis_of_every_chart(driver: Any, run: Path, tmp_path: Path) -> None:
    driver.get(write_report([run], tmp_path / "report.html").as_uri())
    driver.execute_script('document.querySelector("button[data-value=tokens]").click()')
    charts, tokens = drawn(driver), [line["tokens"] for line in steps_of(run)]
    assert charts["Loss"]["traces"][0]["x"] == tokens
    assert charts["Step time by rank"]["traces"][0]["x"] == tokens
    assert charts["Events"]["traces"][0]["x"] == [0]
    driver.execute_script('document.querySelector("button[data-value=log]").click()')
    assert complaints(driver) == []


def test_several_runs_on_a_phone_in_the_dark_fit_the_screen(run: Path, tmp_path: Path) -> None:
    require_browser()
    other = record_run(tmp_path / "other", steps=300, seed=2)
    page = write_report([run, other], tmp_path / "report.html")
    with browser(width=390, height=800, is_dark=True) as phone:
        phone.get(page.as_uri())
        assert phone.execute_script("return document.documentElement.scrollWidth") <= 390
        background = phone.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert background == "rgb(18, 21, 26)"
        assert not [title for title, chart in drawn(phone).items() if not chart["shapes"]]
        assert complaints(phone) == []


def test_the_live_page_advances_with_the_run(driver: Any, tmp_path: Path) -> None:
    run = add_everything(record_run(tmp_path / "run"))
    with served([run], 0) as address:
        driver.get(address)
        wait_for(driver, 'document.getElementById("following")')
        assert drawn(driver)["Loss"]["traces"][0]["x"][-1] == 400
        driver.execute_script('document.querySelector("button[data-value=tokens]").click(); window.isSame = true')
        add_step(run, 410, 2.25)
        wait_for(driver, 'document.body.dataset.step === "410"')
        training = drawn(driver)["Loss"]["traces"][0]
        assert (training["x"][-1], training["y"][-1]) == (410 * 2048, 2.25), "the reader's choice of tokens stays"
        assert driver.execute_script("return window.isSame"), "without loading the page again"
        assert "2.2500" in driver.execute_script('return document.getElementById("essentials").textContent')
        (run / "sample-410.txt").write_text("<script>window.isTaken = true</script>")
        wait_for(driver, 'document.getElementById("rest").textContent.includes("after step 410")')
        assert driver.execute_script("return window.isTaken") is None
        assert complaints(driver) == []


def test_the_live_page_advances_while_a_run_trains(driver: Any, tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path)
    settings = ("training.steps=60", "checkpoint.save_every_steps=0", "training.evaluate_every_steps=0")
    process = run.start_training(*settings)
    try:
        wait_until(lambda: len(run.metrics("step")) > 1)
        with served([run.output], 0) as address:
            driver.get(address)
            seen = int(driver.execute_script("return document.body.dataset.step"))
            wait_for(driver, f"Number(document.body.dataset.step) > {seen}")
            assert process.wait(timeout=120) == 0
            wait_for(driver, 'document.body.dataset.step === "60"')
            records = run.metrics("step")
            assert drawn(driver)["Gradient norm"]["traces"][0]["y"] == [record["grad_norm"] for record in records]
            assert complaints(driver) == []
    finally:
        process.kill()
        process.communicate()
