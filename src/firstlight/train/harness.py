"""A trained run as a model of lm-evaluation-harness, which brings the tasks and counts what is right.

Only imported where the package `lm_eval` is there (extra `lm-eval`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from firstlight.base.errors import InputError
from firstlight.data.tokenizer import end_of_document_id, load_tokenizer
from firstlight.train.scoring import Scorer
from firstlight.train.trained import TrainedRun

_MOST_TOKENS = 256
"""Of an answer, where the task does not say."""


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """Which tasks, by their names in the harness or in `folder`; with how many examples; at most `limit` questions."""

    names: Sequence[str]
    folder: Path | None = None
    num_examples: int | None = None
    limit: int | None = None


class RunModel(TemplateLM):  # type: ignore[misc]  # the package carries no types
    """A run's model after its newest checkpoint, and its tokenizer. A document begins behind the end of another."""

    def __init__(self, run: TrainedRun) -> None:
        super().__init__()
        path = run.folder.tokenizer
        self._tokens = load_tokenizer(path)
        self._end = end_of_document_id(self._tokens, path)
        self._scorer = Scorer(
            run.model, sequence_length=run.sequence_length, batch_size=run.config.training.micro_batch_size
        )

    @property
    def eot_token_id(self) -> int:
        """The token that ends a document."""
        return self._end

    def tok_encode(self, string: str, add_special_tokens: bool | None = None) -> list[int]:  # noqa: ARG002  # as called
        """The tokens of a text; this tokenizer adds none of its own."""
        return list(self._tokens.encode(string, add_special_tokens=False).ids)

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,  # noqa: ARG002  # as the harness calls it
    ) -> list[tuple[float, bool]]:
        """For each (texts, context, continuation): its log probability, and whether greedy decoding would give it."""
        found = self._scorer.score([(context, continuation) for _, context, continuation in requests])
        return [(one.log_probability, one.is_greedy) for one in found]

    def loglikelihood_rolling(
        self,
        requests: list[Instance],
        disable_tqdm: bool = False,  # noqa: ARG002  # as the harness calls it
    ) -> list[float]:
        """The log probability of each whole text, in windows of the sequence length."""
        return [self._rolling(request.args[0]) for request in requests]

    def generate_until(
        self,
        requests: list[Instance],
        disable_tqdm: bool = False,  # noqa: ARG002  # as the harness calls it
    ) -> list[str]:
        """The likeliest continuation of each text up to one of its stops. Raises InputError when it asks for chance."""
        return [self._generate(*request.args) for request in requests]

    def _rolling(self, text: str) -> float:
        windows = get_rolling_token_windows(self.tok_encode(text), self._end, self._scorer.sequence_length, 1)
        return sum(one.log_probability for one in self._scorer.score([make_disjoint_window(one) for one in windows]))

    def _generate(self, context: str, how: dict[str, Any]) -> str:
        if how.get("do_sample"):
            raise InputError(
                "a task that samples its answers (do_sample) is not supported; use one that decodes greedily"
            )
        until = how.get("until") or []
        stops = [until] if isinstance(until, str) else list(until)
        tokens = self.tok_encode(context) or [self._end]
        written: list[int] = []
        for _ in range(int(how.get("max_gen_toks", _MOST_TOKENS))):
            (token,) = self._scorer.greedy([*tokens, *written], most=1)
            if token == self._end:
                break
            written.append(token)
            if any(stop in self._tokens.decode(written) for stop in stops):
                break
        text = str(self._tokens.decode(written))
        for stop in stops:
            text = text.partition(stop)[0]
        return text


def evaluate_tasks(run: TrainedRun, tasks: Tasks) -> dict[str, dict[str, float]]:
    """The figures of each task, by the names that the harness gives them. Raises InputError for an unknown task."""
    manager = TaskManager(include_path=None if tasks.folder is None else str(tasks.folder))
    unknown = [name for name in tasks.names if name not in manager.all_tasks]
    if unknown:
        raise InputError(
            f"lm-evaluation-harness has no task {', '.join(unknown)}; --tasks-folder names a folder of yours"
        )
    answer = simple_evaluate(
        RunModel(run),
        tasks=list(tasks.names),
        num_fewshot=tasks.num_examples,
        limit=tasks.limit,
        bootstrap_iters=0,
        log_samples=False,
        task_manager=manager,
    )
    assert answer is not None, "the harness answers on its first rank, and there is one"
    return {
        name: {figure: value for figure, value in figures.items() if isinstance(value, int | float)}
        for name, figures in answer["results"].items()
    }
