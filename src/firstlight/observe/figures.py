"""The few numbers that a run comes down to, as they stand at the top of a report."""

import math
import statistics
from dataclasses import dataclass

from firstlight.observe.history import History, Line
from firstlight.observe.quantity import in_bytes, in_count, in_duration, in_percent, in_step_time


@dataclass(frozen=True, kw_only=True)
class Card:
    """One number, with what it is and what puts it into proportion."""

    label: str
    value: str
    unit: str = ""
    note: str = ""


def cards(run: History) -> list[Card]:
    """The essentials of a run; those that are not known are left out."""
    found = [card for name, lines in run.evaluations.items() for card in _held_out(run, name, lines[-1])]
    found += [_training_loss(run), _tokens(run), *_speed(run), _time(run), *_size(run), *_machine(run)]
    return found


def _held_out(run: History, name: str, last: Line) -> list[Card]:
    loss, perplexity, bits = last.get("loss"), last.get("perplexity"), last.get("bits_per_byte")
    size = run.vocabulary_size
    untrained = f"untrained: ln({size:,}) = {math.log(size):.2f}" if size else "nats per token"
    found = [Card(label=f"Held-out loss, {name}", value=_number(loss, ".4f"), note=untrained)]
    if perplexity is not None:
        note = f"{bits:.3f} bits per byte" if bits is not None else "exp(loss)"
        found.append(Card(label=f"Perplexity, {name}", value=f"{perplexity:,.4g}", note=note))
    return found


def _training_loss(run: History) -> Card:
    """Of the prediction of the next token, as held-out losses are; what else is trained on is in the note."""
    last = run.steps[-1]
    place = f"step {last['step']:,}" + (f" of {run.total_steps:,}" if run.total_steps else "")
    if run.token_loss != "loss":
        place += f"; {_number(last.get('loss'), '.4f')} in all"
    return Card(label="Training loss", value=_number(last.get(run.token_loss), ".4f"), note=place)


def _tokens(run: History) -> Card:
    last = run.steps[-1]
    return Card(
        label="Tokens trained",
        value=in_count(last.get("tokens") or 0),
        note=f"{in_count(last.get('samples') or 0)} sequences",
    )


def _speed(run: History) -> list[Card]:
    speed = _typical(run, "tokens_per_second")
    if speed is None:
        return []
    step = _typical(run, "step_seconds")
    note = f"median; {in_step_time(step)} per step" if step is not None else "median"
    found = [Card(label="Throughput", value=in_count(speed), unit="tokens/s", note=note)]
    mfu = _typical(run, "mfu")
    if mfu is not None:
        convention = run.facts.get("precision")
        found.append(Card(label="MFU", value=in_percent(mfu), note=f"of {convention}" if convention else "median"))
    return found


def _time(run: History) -> Card:
    skipped = sum(value or 0 for value in run.column("skipped_steps"))
    note = f"skipped steps: {skipped:,.0f}" if skipped else "no step skipped"
    return Card(label="Time", value=in_duration(run.elapsed_seconds), note=note)


def _size(run: History) -> list[Card]:
    parameters, activated = run.facts.get("parameters"), run.facts.get("activated_parameters")
    if not isinstance(parameters, int | float):
        return []
    note = "all active"
    if isinstance(activated, int | float) and activated != parameters:
        note = f"{in_count(activated)} active per token"
    return [Card(label="Parameters", value=in_count(parameters), note=note)]


def _machine(run: History) -> list[Card]:
    found = []
    memory = max((value for value in run.column("memory_bytes") if value), default=None)
    if memory is not None:
        found.append(Card(label="Peak memory", value=in_bytes(memory), note="of the rank that has held most"))
    if "world_size" in run.facts or "device" in run.facts:
        ranks = run.facts.get("world_size", 1)
        device = str(run.facts.get("device", ""))
        found.append(Card(label="Ranks", value=str(ranks), note=device))
    return found


def _typical(run: History, name: str) -> float | None:
    """The median over the records; the first one is a warm-up, unless it is all there is."""
    values = [value for value in run.column(name)[1:] or run.column(name) if value is not None]
    return statistics.median(values) if values else None


def _number(value: float | None, digits: str) -> str:
    return "not finite" if value is None else format(value, digits)
