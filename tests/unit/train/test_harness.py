"""Tasks of lm-evaluation-harness on a run's live model: the same likelihoods as on its export, and no network."""

import json
import math
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from firstlight.cli.main import app
from firstlight.train.scoring import Scorer
from firstlight.train.trained import TrainedRun, load_trained
from tests.runs import TinyRun, make_tiny_run
from tests.unit.train.tiny import train_here

pytest.importorskip("lm_eval", reason="needs the package lm_eval: pip install 'firstlight[lm-eval]'")

TASK = """\
task: tiny_words
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
fewshot_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
doc_to_target: {target}
{more}
"""
CHOICE = "doc_to_choice: choices\nmetric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]"
UNTIL = (
    "generation_kwargs: {until: ['e'], max_gen_toks: 8}\n"
    "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]"
)
ROLLING = "metric_list: [{metric: bits_per_byte}]"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    run = make_tiny_run(tmp_path_factory.mktemp("harness") / "run")
    train_here(run)
    return run


@pytest.fixture(scope="module")
def trained(finished: TinyRun) -> TrainedRun:
    return load_trained(finished.output)


def questions(folder: Path) -> Path:
    """Two questions of two choices."""
    folder.mkdir(exist_ok=True)
    rows = [
        {"question": "1: abc", "choices": [" de", " fghij"], "answer": 0},
        {"question": "2: cab", "choices": [" jihg", " ab"], "answer": 1},
    ]
    file = folder / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def write_task(folder: Path, kind: str, target: str, more: str) -> None:
    text = TASK.format(file=questions(folder), kind=kind, target=target, more=more)
    (folder / "tiny_words.yaml").write_text(text)


def results(run: TinyRun, folder: Path, *more: str) -> dict[str, float]:
    """What `firstlight evaluate` leaves of the task in `folder`."""
    arguments = ["evaluate", str(run.output), "--task", "tiny_words", "--tasks-folder", str(folder), *more]
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 0, answer.output
    assert "tiny_words" in answer.output
    found = json.loads((run.output / "tasks.json").read_text())
    assert found["step"] == 4
    figures: dict[str, float] = found["tasks"]["tiny_words"]
    return figures


def one_by_one(run: TrainedRun, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """The definition, token by token, each from the whole text before it."""
    total, is_greedy = 0.0, True
    for place, token in enumerate(continuation):
        window = torch.tensor([[*context, *continuation[:place]]])
        scores = run.model.logits(window)[0, -1].double()
        total += float(scores.log_softmax(-1)[token])
        is_greedy &= int(scores.argmax()) == token
    return total, is_greedy


@torch.no_grad()
def test_a_likelihood_is_that_of_its_tokens_one_by_one(trained: TrainedRun) -> None:
    scorer = Scorer(trained.model, sequence_length=trained.sequence_length, batch_size=2)
    likely = scorer.greedy([5, 6, 7], most=3)
    pairs = [([5, 6, 7], likely), ([0], [9, 9, 200]), ([1, 2, 3, 4, 5, 6, 7, 8], [11])]
    for found, (context, continuation) in zip(scorer.score(pairs), pairs, strict=True):
        expected, is_greedy = one_by_one(trained, context, continuation)
        assert found.log_probability == pytest.approx(expected, rel=1e-5)
        assert found.is_greedy == is_greedy
    assert scorer.score(pairs[:1])[0].is_greedy


@torch.no_grad()
def test_what_is_too_long_loses_the_begin_of_its_context(trained: TrainedRun) -> None:
    scorer = Scorer(trained.model, sequence_length=8, batch_size=1)
    context, continuation = list(range(20, 40)), [50, 51]
    (found,) = scorer.score([(context, continuation)])
    expected = Scorer(trained.model, sequence_length=32, batch_size=1).score([(context[-7:], continuation)])
    assert found.log_probability == pytest.approx(expected[0].log_probability, rel=1e-6)


def test_choices_are_weighed_as_they_are_on_the_export(finished: TinyRun, trained: TrainedRun, tmp_path: Path) -> None:
    from lm_eval.api.instance import Instance

    from firstlight.train.harness import RunModel

    write_task(tmp_path / "tasks", "multiple_choice", "answer", CHOICE)
    figures = results(finished, tmp_path / "tasks")
    answer = CliRunner().invoke(app, ["export", str(finished.output), "--output", str(tmp_path / "hub")])
    assert answer.exit_code == 0, answer.output
    texts = [("1: abc", " de"), ("1: abc", " fghij"), ("2: cab", " jihg"), ("2: cab", " ab"), ("", "abc def")]
    asked = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=index) for index, pair in enumerate(texts)
    ]
    here = RunModel(trained).loglikelihood(asked, disable_tqdm=True)
    transformers = pytest.importorskip("transformers")
    exported = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hub", dtype=torch.float32).eval()
    adapter = RunModel(trained)
    for (context, continuation), (one, is_greedy) in zip(texts, here, strict=True):
        before = adapter.tok_encode(context) or [adapter.eot_token_id]
        after = adapter.tok_encode(continuation)
        with torch.no_grad():
            scores = exported(torch.tensor([[*before, *after]])).logits[0, len(before) - 1 : -1]
        chosen = scores.log_softmax(-1).gather(1, torch.tensor(after)[:, None])
        assert one == pytest.approx(float(chosen.sum()), rel=1e-4)
        assert is_greedy == (scores.argmax(-1).tolist() == after)
    right = (here[0][0] > here[1][0]) + (here[3][0] > here[2][0])
    assert figures["acc,none"] == right / 2


def test_few_shot_and_a_limit_are_passed_on(finished: TinyRun, tmp_path: Path) -> None:
    write_task(tmp_path / "tasks", "multiple_choice", "answer", CHOICE)
    assert results(finished, tmp_path / "tasks", "--few-shot", "1", "--limit", "1")["acc,none"] in (0, 1)


def test_texts_are_written_and_whole_texts_weighed(finished: TinyRun, tmp_path: Path) -> None:
    write_task(tmp_path / "a", "generate_until", "question", UNTIL)
    assert results(finished, tmp_path / "a")["exact_match,none"] == 0
    write_task(tmp_path / "b", "loglikelihood_rolling", "question", ROLLING)
    found = results(finished, tmp_path / "b")["bits_per_byte,none"]
    assert 0 < found < 2 * math.log2(300)


def test_an_unknown_task_is_named(finished: TinyRun) -> None:
    answer = CliRunner().invoke(app, ["evaluate", str(finished.output), "--task", "no_such_task"])
    assert "no task no_such_task" in str(answer.exception or answer.output)
