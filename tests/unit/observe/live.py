"""A made-up run that has everything that a report can show."""

import json
import math
from pathlib import Path

from firstlight.observe.events import EVENTS_FILE, EventLog
from firstlight.observe.jsonl import JsonLines
from tests.unit.observe.synthetic import TOKENS_PER_STEP

LAYERS = tuple(f"layers.{layer}" for layer in range(1, 9))
GROUPS = ("embedding", "attention", "experts", "norm", "head")


def add_everything(run: Path, *, ranks: int = 6) -> Path:
    """To a recorded run: experts of each layer, norms of groups, tables of ranks, events and samples."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    for line in steps:
        line |= _figures(line["step"])
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = JsonLines(run / "metrics.jsonl")
    table.open(steps[-1]["step"])
    for line in steps:
        seconds = [0.6 + 0.25 * (rank == 3 and line["step"] > 200) for rank in range(ranks)]
        waits = [max(seconds) - one + 0.002 for one in seconds]
        table.write_ranks(line["step"], {"step_seconds": seconds, "wait_seconds": waits})
    table.close()
    _add_events(run)
    for step in (100, 400):
        (run / f"sample-{step}.txt").write_text(f"after {step} steps it says <b>this</b>\n")
    return run


def add_step(run: Path, step: int, loss: float) -> None:
    """One more record at the end of a run, as a trainer would add it."""
    last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    like = next(line for line in reversed(last) if line["kind"] == "step")
    line = {**like, "step": step, "tokens": TOKENS_PER_STEP * step, "loss": loss, "loss/lm": loss}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def _figures(step: int) -> dict[str, float]:
    found = {}
    for index, layer in enumerate(LAYERS):
        violation = (0.1 + 2 * math.exp(-step / (40 + 10 * index))) * (1 + 0.3 * math.sin(step / 17 + index))
        found[f"expert_load/{layer}/max_vio"] = violation
        found[f"expert_load/{layer}/entropy"] = 1 - 0.1 * violation
    for index, group in enumerate(GROUPS):
        found[f"grad_norm/{group}"] = (0.05 + math.exp(-step / 30)) * (index + 1)
    return found


def _add_events(run: Path) -> None:
    events = EventLog(run / EVENTS_FILE, clock=lambda: 1_760_000_000.0)
    events.add("start", 0, "begins")
    for step in range(100, 401, 100):
        events.add("checkpoint", step, f"step-{step:08} saved")
        events.add("evaluation", step, "held-out stdlib: loss 3.1")
    events.add("skip", 137, "update left out: gradient norm inf")
    events.add("alert", 210, "tokens_per_second < 0.8 * median: tokens_per_second = 2100")
    events.add("stop", 400, "all steps are done")
