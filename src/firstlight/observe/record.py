"""What a sink is given: flat mappings from documented names to numbers.

A step's record (means are per step, over the steps since the last record):

    step, samples, tokens       consumed since the start of training
    global_batch_size           sequences of this step
    sequence_length             tokens of each of them
    loss, loss/<part>           nats per token, of this step; parts ("lm", "mtp", "balance", "z",
                                "router_z") are before their weight
    learning_rate, grad_norm    of this step; the norm is the one before clipping
    loss_scale                  by what this step's loss was multiplied for its gradients; absent where that is 1
    step_seconds                mean; without the seconds spent in evaluation and checkpoints
    tokens_per_second           over the same seconds, of all ranks together
    seconds/<span>              mean; "data", "forward_backward", "optimizer", "check" (of replicas, or a replay) where
                                that is asked for, and the pauses "evaluate", "checkpoint" and "monitor", which is the
                                measuring and writing of the record before
    mfu                         0 to 1; model FLOPs per second over the peak of all ranks; absent when that is unknown
    memory_bytes                peak so far: of the rank that has held most, or of the first if ranks are not measured
    eta_seconds                 steps left at the present step_seconds, without evaluations and checkpoints to come
    grad_norm_limit             above which this step would have been skipped; absent while nothing is
    skipped_steps               steps since the last record that left the weights as they were
    attention_logits/max        the largest of all layers and heads in this step; absent unless it is measured
    expert_load/max_vio         max load / mean load - 1, the largest of all layers; absent without experts
    expert_load/<layer>/max_vio, /entropy   of one layer; the entropy of the load over that of an even one, 0 to 1
    grad_norm/<group>           of a group of modules ("attention", "experts", ...), before clipping, of this step
    weight_norm/<group>, update_norm/<group>, layer_grad_norm/<n>, optimizer_norm/<moment>   with `monitor.measure`
    pipeline_bubble             0 to 1; the share of this step in which stages did not compute; absent without stages
    exposed_communication_seconds       of this step's forward and backward pass, mean of the ranks: data is under way
                                between ranks and the device computes nothing; a part of seconds/forward_backward;
                                absent with one rank, and unless it is measured
    device/<what>               "celsius", "megahertz", "watts", "load"; with `monitor.measure`, where torch tells
    elapsed_seconds             since this process opened the recorder, everything included
    time                        unix time, seconds

An evaluation's record: step, samples, tokens, elapsed_seconds, time as above, and for one held-out set

    evaluate/<name>/loss            nats per token
    evaluate/<name>/perplexity      exp(loss)
    evaluate/<name>/bits_per_byte   absent when the set's bytes are not known, as is
    evaluate/<name>/perplexity_per_byte     2 to the power of that
    evaluate/<name>/tokens          over which the loss is the mean

A table of ranks, by name a list with a number for each rank:

    step_seconds, data_seconds, forward_backward_seconds, memory_bytes   as above, of the rank itself
    loss                        of the next token, over the rank's own samples; none on a stage without the last layer
    grad_norm                   of the part of the gradient that the rank holds
    wait_seconds                in the collective that ends a step's backward pass: least where the others wait for
    exposed_communication_seconds   as above, of the rank itself
    idle_share                  of this step's way through the pipeline; only with stages
"""

import math
from collections.abc import Mapping, Sequence

from firstlight.base.report import EvalReport, StepReport

Record = Mapping[str, float]
RankTable = Mapping[str, Sequence[float]]
"""Figures of each rank, by name; NaN where a rank has none."""

PAUSES = ("evaluate", "checkpoint", "monitor")
"""Spans in which training stands still; they are no part of `step_seconds`."""

EXPOSED = "exposed_communication_seconds"
MAX_VIO = "expert_load/max_vio"
MAX_LOGIT = "attention_logits/max"
EVALUATE_PREFIX = "evaluate/"
LOSS_PREFIX = "loss/"
TOKEN_LOSS = "loss/lm"
SECONDS_PREFIX = "seconds/"
EXPERT_PREFIX = "expert_load/"
GRAD_NORM_PREFIX = "grad_norm/"
WEIGHT_NORM_PREFIX = "weight_norm/"
UPDATE_NORM_PREFIX = "update_norm/"


def loss_figures(report: StepReport) -> dict[str, float]:
    """The part of a step's record that is of this very step."""
    figures: dict[str, float] = {"step": report.step, "samples": report.samples, "tokens": report.tokens}
    figures |= {"global_batch_size": report.global_batch_size, "sequence_length": report.sequence_length}
    figures["loss"] = report.loss.total
    figures |= {f"{LOSS_PREFIX}{part}": value for part, value in report.loss.parts.items()}
    figures["learning_rate"] = report.learning_rate
    figures["grad_norm"] = report.update.grad_norm
    if report.update.norm_limit is not None:
        figures["grad_norm_limit"] = report.update.norm_limit
    if report.update.loss_scale != 1:
        figures["loss_scale"] = report.update.loss_scale
    if report.loss.expert_load:
        figures[MAX_VIO] = max(report.loss.expert_load.values())
    if report.loss.attention_logits:
        figures[MAX_LOGIT] = max(report.loss.attention_logits.values())
    return figures


def evaluation_figures(report: EvalReport) -> dict[str, float]:
    """The part of an evaluation's record that is of the held-out set."""
    figures = {"loss": report.loss, "perplexity": _perplexity(report.loss), "tokens": report.tokens}
    if report.bytes_per_token:
        per_byte = report.loss / report.bytes_per_token
        figures |= {"bits_per_byte": per_byte / math.log(2), "perplexity_per_byte": _perplexity(per_byte)}
    return {f"{EVALUATE_PREFIX}{report.name}/{figure}": value for figure, value in figures.items()}


def held_out_sets(record: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """The figures of an evaluation's record, by held-out set: {"wiki": {"loss": 3.2, ...}}."""
    sets: dict[str, dict[str, float]] = {}
    for key, value in record.items():
        if key.startswith(EVALUATE_PREFIX):
            name, _, figure = key.removeprefix(EVALUATE_PREFIX).rpartition("/")
            sets.setdefault(name, {})[figure] = value
    return sets


def parts_of(record: Mapping[str, float], prefix: str) -> dict[str, float]:
    """The entries of `record` under `prefix` ("loss/", "seconds/"), without it."""
    return {key.removeprefix(prefix): value for key, value in record.items() if key.startswith(prefix)}


def _perplexity(loss: float) -> float:
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
