import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from firstlight.base.errors import InputError
from firstlight.observe.charts import axes, charts
from firstlight.observe.history import read_histories
from firstlight.observe.jsonl import read_metrics
from firstlight.observe.legend import legend
from firstlight.observe.report import write_report
from tests.unit.observe.synthetic import record_run

EVERY_CHART = [
    "Loss",
    "Parts of the loss",
    "Learning rate",
    "Gradient norm",
    "Throughput",
    "Where the time goes",
    "Model FLOPs utilisation",
    "Expert load",
    "Peak memory",
    "Skipped steps",
]


class Elements(HTMLParser):
    """The elements of a page, and the text of its headings and cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.found)


def without_plotly(page: str) -> str:
    """The page without the one large script, in which anything can be found."""
    return re.sub(r"<script>/\*\*?.{1000000,}?</script>", "", page, count=1, flags=re.DOTALL)


def test_page_has_every_chart_with_its_numbers(tmp_path: Path) -> None:
    run = record_run(tmp_path / "run")
    page = write_report([run], tmp_path / "out" / "report.html").read_text()
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == [*EVERY_CHART, "Sample"]
    steps = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "step"]
    for name in ("loss", "loss/mtp", "learning_rate", "grad_norm", "tokens_per_second", "mfu", "seconds/data"):
        assert json.dumps(steps[7][name]) in without_plotly(page), name
    positions = axes(read_histories([run]))
    assert positions["0/"]["tokens"] == [line["tokens"] for line in steps]
    assert positions["0/stdlib"]["step"] == [100, 200, 300, 400]


def test_page_says_the_essentials(tmp_path: Path) -> None:
    page = write_report([record_run(tmp_path / "run")], tmp_path / "report.html").read_text()
    for text in (
        "Held-out loss, stdlib",
        "ln(8,192) = 9.01",
        "Perplexity, stdlib",
        "bits per byte",
        "819K",
        "tokens/s",
        "step 400 of 400",
        "12.3M",
        "4.2M active per token",
        "of fp32 matrix products, measured",
        "torch 2.13.0, python 3.11, code of commit 0123456789ab, changed since",
        "vocab_size: 8192",
        "def read_lines(path):",
    ):
        assert text in page, text


def test_exposed_communication_is_taken_out_of_the_passes(tmp_path: Path) -> None:
    run = record_run(tmp_path / "run", steps=30)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    for line, exposed in zip(steps, (0.25, 1000.0, None, 0.0), strict=True):
        line["exposed_communication_seconds"] = exposed
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    bars = {trace.name: list(trace.y) for trace in _chart(run, "Where the time goes").data}
    passes = [line["seconds/forward_backward"] for line in steps]
    assert list(bars)[list(bars).index("forward_backward") + 1] == "communication"
    assert bars["communication"] == [0.25, passes[1], 0, 0]
    assert bars["forward_backward"] == [passes[0] - 0.25, 0, passes[2], passes[3]]
    assert sum(values[0] for values in bars.values()) == pytest.approx(steps[0]["step_seconds"])


def _chart(run: Path, title: str) -> Any:
    return {chart.title: chart.figure for chart in charts(read_histories([run]))}[title]


def test_faults_that_the_launcher_saw_are_told(tmp_path: Path) -> None:
    run = record_run(tmp_path / "run")
    cause = "rank 1 (pid 7) is hung in step 121: <b>"
    fault = {"event": "fault", "time": 1_760_000_100.0, "round": 0, "kind": "hung", "rank": 1, "step": 121}
    fault |= {"cause": cause, "action": "restart", "traces": "logs/step-121-hung-1760000100"}
    recovered = {"event": "recovered", "time": 1_760_000_120.0, "kind": "hung", "rank": 1, "step": 121}
    (run / "faults.jsonl").write_text(f'{json.dumps(fault)}\n{json.dumps(recovered)}\n{{"event": "fau')
    drawn = {chart.title: chart.figure for chart in charts(read_histories([run]))}
    (points,) = drawn["Events"].data
    assert (points.name, list(points.x)) == ("fault", [120])
    page = without_plotly(write_report([run], tmp_path / "report.html").read_text())
    assert "<h2>Faults</h2>" in page
    assert "hung in step 121: &lt;b&gt;; then: restart" in page
    assert "stacks and collectives: logs/step-121-hung-1760000100" in page


def test_page_loads_nothing(tmp_path: Path) -> None:
    page = write_report([record_run(tmp_path / "run")], tmp_path / "report.html").read_text()
    elements = Elements(page)
    assert not [attributes for _, attributes in elements.found if {"src", "href", "srcset", "data"} & set(attributes)]
    assert elements.count("link") == elements.count("img") == elements.count("iframe") == 0
    assert "://" not in without_plotly(page)
    assert "@import" not in without_plotly(page)
    assert len(re.findall(r"plotly\.js v\d", page)) == 1
    assert "default-src 'none'" in page


def test_several_runs_are_laid_over_each_other(tmp_path: Path) -> None:
    runs = [record_run(tmp_path / "dense", is_sparse=False, seed=1), record_run(tmp_path / "sparse", steps=300)]
    histories = read_histories(runs)
    drawn = {chart.title: chart.figure for chart in charts(histories)}
    assert [trace.name for trace in drawn["Gradient norm"].data] == ["dense", "sparse"]
    assert [trace.name for trace in drawn["Expert load"].data] == ["sparse"]
    assert len(drawn["Loss"].data) == 4
    bars = drawn["Where the time goes"].data
    assert {bar.name for bar in bars} == {
        "data",
        "forward_backward",
        "optimizer",
        "evaluate",
        "checkpoint",
        "monitor",
        "other",
    }
    page = write_report(runs, tmp_path / "report.html").read_text()
    assert page.count("<tr>") == 3 + 2, "two runs, and the one key in which they differ"


def test_legend_has_a_key_for_each_series_and_none_for_a_single_one(tmp_path: Path) -> None:
    run = record_run(tmp_path / "run", steps=100)
    drawn = {chart.title: legend(chart.figure) for chart in charts(read_histories([run]))}
    assert re.findall(r"</svg>(.*?)</button>", drawn["Loss"]) == ["training", "stdlib"]
    assert re.findall(r"</svg>(.*?)</button>", drawn["Parts of the loss"]) == ["lm", "mtp", "balance", "total"]
    assert drawn["Learning rate"] == ""


def test_training_and_held_out_loss_are_of_the_same_thing(tmp_path: Path) -> None:
    run = record_run(tmp_path / "run", steps=100)
    training = charts(read_histories([run]))[0].figure.data[0]
    lines = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "step"]
    assert list(training.y) == [line["loss/lm"] for line in lines]


def test_no_chart_stands_beside_a_gap(tmp_path: Path) -> None:
    for steps in (100, 200):  # without and with a skipped step
        found = charts(read_histories([record_run(tmp_path / str(steps), steps=steps)]))
        assert sum(not chart.is_wide for chart in found) % 2 == 0


def test_plain_run_lacks_the_charts_that_it_has_no_numbers_for(tmp_path: Path) -> None:
    run = record_run(tmp_path / "run", is_sparse=False, evaluate=False, steps=60)
    for name in ("run.json", "config.yaml", "sample.txt"):
        (run / name).unlink()
    titles = [chart.title for chart in charts(read_histories([run]))]
    missing = {"Parts of the loss", "Expert load", "Skipped steps"}
    assert titles == [title for title in EVERY_CHART if title not in missing]
    page = write_report([run], tmp_path / "report.html").read_text()
    assert "Held-out" not in page
    assert "<details" not in page


def test_single_record_is_a_report(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"kind": "step", "version": 1, "step": 1, "loss": null}\n')
    page = write_report([tmp_path], tmp_path / "report.html").read_text()
    assert "not finite" in page


def test_run_without_metrics_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        write_report([tmp_path], tmp_path / "report.html")
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match="holds no step yet"):
        write_report([tmp_path], tmp_path / "report.html")
    with pytest.raises(InputError, match="no run was given"):
        write_report([], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_texts_of_users_are_escaped_everywhere(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)<&>"
    run = record_run(tmp_path / "a<b>&c", steps=20)
    (run / "sample.txt").write_text(evil)
    (run / "config.yaml").write_text(f"note: '{evil}'\n")
    (run / "run.json").write_text(json.dumps({"versions": {evil: "1"}, "device": evil, "parameters": 5}))
    line = {"kind": "evaluation", "version": 1, "step": 20, "tokens": 1, f"evaluate/{evil}/loss": 3.0}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    page = write_report([run], tmp_path / "report.html").read_text()
    other = record_run(tmp_path / "plain", steps=20)
    pages = [page, write_report([run, other], tmp_path / "both.html").read_text()]
    for text in pages:
        assert "<script>alert" not in text
        assert "a<b>" not in text
    assert Elements(page).count("h1") == 1
    scripts = Elements(write_report([other], tmp_path / "plain.html").read_text()).count("script")
    assert Elements(page).count("script") == scripts


def test_restarts_add_up_and_repeated_steps_count_once(tmp_path: Path) -> None:
    lines = [(1, 10.0), (2, 20.0), (3, 5.0), (3, 6.0), (4, 9.0)]
    text = "".join(
        json.dumps({"kind": "step", "version": 1, "step": step, "loss": 1.0, "elapsed_seconds": elapsed}) + "\n"
        for step, elapsed in lines
    )
    (tmp_path / "metrics.jsonl").write_text(text)
    history = read_histories([tmp_path])[0]
    assert [line["step"] for line in history.steps] == [1, 2, 3, 4]
    assert history.elapsed_seconds == 29.0


def test_mean_time_gives_each_step_the_same_weight(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        lines = [{"step": 1, "seconds/data": 4.0, "step_seconds": 4.0}, {"step": 4, "seconds/data": 1.0}]
        text = "".join(json.dumps({"kind": "step", "version": 1, "loss": 1.0, **line}) + "\n" for line in lines)
        (tmp_path / name / "metrics.jsonl").write_text(text)
    drawn = {chart.title: chart.figure for chart in charts(read_histories([tmp_path / "a", tmp_path / "b"]))}
    assert list(drawn["Where the time goes"].data[0].x) == [7.0 / 4, 7.0 / 4]


def test_runs_of_the_same_folder_name_are_told_apart(tmp_path: Path) -> None:
    runs = [record_run(tmp_path / parent / "run", steps=20) for parent in ("a", "b")]
    assert [history.name for history in read_histories(runs)] == ["a/run", "b/run"]
