"""What the table of published runs leaves out: the systems that made them, and the settings of each source."""

from dataclasses import dataclass, replace

from firstlight.config.recompute import FullRecompute, NoRecompute, Recompute, SelectiveRecompute
from firstlight.layout.activations import Numbers
from firstlight.layout.counts import Convention
from firstlight.plan.work import Practice

MEGATRON = Practice(
    numbers=Numbers(stream=2, product=2),
    number_bytes=2,
    gathered_bytes=2,
    parameter_bytes=2,
    moment_bytes=12,
    has_fused_pointwise=True,
    hides_experts="no",
    dispatch_bytes=2,
    receives_apart=False,
)
"""Megatron-LM: parameters in bf16, a copy and moments in fp32, fused kernels, sequence parallel."""
OLD_MEGATRON = replace(MEGATRON, attention="matrix")
"""Of 2022, before FlashAttention."""
OVERLAPPED = replace(MEGATRON, hides_tensor=0.6)
"""With transfers of tensor groups beside products."""
DEEP_EP = replace(MEGATRON, sends_rows_once_per_node=True)
"""With DeepEP between experts."""
PAIRED = replace(DEEP_EP, hides_experts="paired")
"""With forward and backward passes in turn, so that rows travel beside products."""
DEEPSEEK = replace(PAIRED, precision="fp8", dispatch_bytes=1)
TITAN = Practice(numbers=Numbers(stream=2, product=2), number_bytes=2, gathered_bytes=2, dispatch_bytes=2)
"""torchtitan, eager."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """What the table does not say of a run."""

    hardware: str
    practice: Practice = MEGATRON
    recompute: Recompute = NoRecompute()
    convention: Convention = "causal"
    stages_per_rank: int | None = None
    micro_batch_size: int | None = None
    expert_parallel: int | None = None
    predicts_ahead: bool = False
    counts_ahead: bool | None = None
    """Whether its TFLOP/s count multi-token prediction, where that is not as it is."""
    attends_by_torch: bool = False
    """With torch's FlashAttention-2, which reaches less of a Hopper device than FlashAttention-3 does."""
    shards_all: bool = False
    doubt: str = ""
    """Why it is reported and not counted."""
    doubted_flops: str = ""
    """Why its FLOPs alone are not."""


_TITAN_COMPILED = replace(TITAN, has_fused_pointwise=True)
_ASYNC = replace(_TITAN_COMPILED, hides_tensor=0.8)
_FULL = FullRecompute()
_SELECTIVE = SelectiveRecompute()
_EVERY_OTHER = SelectiveRecompute(repeated_in=("feed_forward",))
"""torchtitan keeps every other product; here those of the feed-forward are computed again, which are a few more."""
_LATENT = SelectiveRecompute(repeated_in=("latent_up_projection",))

DESCRIPTIONS: dict[str, Described] = {
    "seqpar-gpt22b-full": Described(hardware="a100", practice=OLD_MEGATRON, recompute=_FULL, convention="full"),
    "seqpar-gpt175b-full": Described(hardware="a100", practice=OLD_MEGATRON, recompute=_FULL, convention="full"),
    "seqpar-gpt530b-full": Described(hardware="a100", practice=OLD_MEGATRON, recompute=_FULL, convention="full"),
    "seqpar": Described(hardware="a100", practice=OLD_MEGATRON, convention="full"),
    "mcore": Described(
        hardware="h100",
        practice=OVERLAPPED,
        convention="full",
        doubt="micro-batch size and stages of a rank are not known",
    ),
    "llama3-405b-16384-131072": Described(
        hardware="h100", stages_per_rank=4, doubt="stages of a rank and the ring's overlap are not known"
    ),
    "llama3": Described(hardware="h100", stages_per_rank=4, doubt="stages of a rank are not known"),
    "megascale-MegaScale": Described(
        hardware="a100",
        practice=replace(MEGATRON, hides_tensor=0.8),
        convention="full",
        doubt="another model: parallel blocks and sliding windows",
    ),
    "megascale": Described(hardware="a100", practice=OLD_MEGATRON, convention="full"),
    "torchtitan-8b-8": Described(
        hardware="h100-500w", practice=TITAN, recompute=_EVERY_OTHER, shards_all=True, attends_by_torch=True
    ),
    "torchtitan-8b-128": Described(
        hardware="h100-500w", practice=TITAN, recompute=_EVERY_OTHER, shards_all=True, attends_by_torch=True
    ),
    "torchtitan-8b-cp": Described(
        hardware="h100-500w", practice=_TITAN_COMPILED, recompute=_FULL, shards_all=True, attends_by_torch=True
    ),
    "torchtitan-70b": Described(
        hardware="h100-500w", practice=_ASYNC, recompute=_FULL, shards_all=True, attends_by_torch=True
    ),
    "torchtitan-405b": Described(hardware="h100-500w", practice=_ASYNC, recompute=_FULL, attends_by_torch=True),
    "nemo-llama8b": Described(hardware="h100", shards_all=True),
    "nemo-llama70b": Described(hardware="h100", practice=OVERLAPPED, doubted_flops="tokens a second are rounded to 64"),
    "nemo-gptoss120b-h100": Described(
        hardware="h100", practice=DEEP_EP, doubt="its TFLOP/s leave the head out, which is a fifth"
    ),
    "nemo-gptoss120b-gb200": Described(hardware="gb200", practice=DEEP_EP),
    "nemo-qwen235b-h100": Described(hardware="h100", practice=PAIRED, recompute=_SELECTIVE),
    "nemo-dsv3-gb200-bf16": Described(hardware="gb200", practice=DEEP_EP, recompute=_LATENT),
    "nemo-dsv3-gb300": Described(
        hardware="gb200", practice=DEEP_EP, recompute=_LATENT, predicts_ahead=True, doubt="no profile of GB300"
    ),
    "nemo-dsv3-gb200": Described(hardware="gb200", practice=DEEP_EP, recompute=_LATENT, predicts_ahead=True),
    "nemo-dsv3-b200": Described(hardware="b200", practice=PAIRED, recompute=_LATENT, predicts_ahead=True),
    "nemo-kimik2": Described(hardware="gb200", practice=DEEP_EP, recompute=_LATENT, doubt="no profile of GB300"),
    "nemo-qwen235b-gb200": Described(hardware="gb200", practice=DEEP_EP),
    "nemo-dsv4flash": Described(hardware="gb200", doubt="no such family"),
    "automodel-dsv3": Described(hardware="h100", practice=DEEP_EP, recompute=_FULL),
    "automodel-qwen30b": Described(hardware="h100", practice=DEEP_EP, shards_all=True),
    "automodel-gptoss20b": Described(
        hardware="h100", practice=DEEP_EP, shards_all=True, doubt="its TFLOP/s leave attention out; no expert_parallel"
    ),
    "automodel-gptoss120b": Described(
        hardware="h100", practice=DEEP_EP, shards_all=True, doubt="its TFLOP/s leave attention out; no expert_parallel"
    ),
    "automodel-llama70b": Described(hardware="h100", recompute=_FULL, shards_all=True),
    "moezoo-qwen235b-a": Described(hardware="h100", practice=DEEP_EP, recompute=_SELECTIVE),
    "moezoo-qwen235b-b": Described(hardware="h100", practice=PAIRED, recompute=_SELECTIVE),
    "moezoo-qwen235b-c": Described(hardware="h100", practice=DEEP_EP, recompute=_FULL),
    "moezoo-qwen235b-d": Described(hardware="h100", practice=MEGATRON, recompute=_SELECTIVE),
    "dsv3-official-cost": Described(hardware="h800", practice=DEEPSEEK, recompute=_LATENT, predicts_ahead=True),
    "dsv3-official": Described(
        hardware="h800", practice=DEEPSEEK, recompute=_LATENT, predicts_ahead=True, counts_ahead=False
    ),
    "dsv3-trace": Described(
        hardware="h800", practice=DEEPSEEK, recompute=_LATENT, doubt="a pair of passes, not a step"
    ),
    "pangu": Described(hardware="ascend-910b", doubt="batch and exact layout are not published"),
    "mindformers": Described(hardware="ascend-910b", doubt="batch or layout are not published"),
    "nemotron4-340b-128": Described(
        hardware="h100",
        practice=OVERLAPPED,
        convention="full",
        doubted_flops="it counts a fifth more than the model has",
    ),
    "nemotron4": Described(hardware="h100", practice=OVERLAPPED, convention="full", stages_per_rank=8),
    "trainy": Described(
        hardware="h200", practice=_TITAN_COMPILED, recompute=_EVERY_OTHER, shards_all=True, attends_by_torch=True
    ),
}
"""By the beginning of a run's name; the longest that fits is meant."""


def description_of(name: str) -> Described:
    """Of the run `name`."""
    return DESCRIPTIONS[max((prefix for prefix in DESCRIPTIONS if name.startswith(prefix)), key=len)]
