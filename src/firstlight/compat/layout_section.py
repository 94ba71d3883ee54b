"""The parallelism section out of the facts: degrees, sharding, stages."""

from dataclasses import dataclass
from typing import Any

from firstlight.compat.facts import Facts
from firstlight.compat.old_file import Generation
from firstlight.compat.stages import stage_split

_CONTEXT_KINDS = {
    "colossalai_cp": "ring",
    "colossal": "ring",
    "ulysses_cp": "all_to_all",
    "ulysses": "all_to_all",
    "hybrid_cp": "mixed",
    "hybrid": "mixed",
}
_SHARDED = {"optim_grads_params": "all", "optim_grads": "optimizer+gradients", "optim": "optimizer"}
_PLAIN_MODES = ("0", "data_parallel")


@dataclass(frozen=True, kw_only=True)
class Degrees:
    """How many ranks share what; `data` is None where all processes that are left are meant."""

    data: int | None
    tensor: int
    pipeline: int
    context: int

    @property
    def fixed(self) -> int:
        """The product of all but data parallelism."""
        return self.tensor * self.pipeline * self.context

    def data_size(self, world_size: int | None) -> int:
        """Ranks that read different samples; 1 where nobody knows."""
        if self.data is not None:
            return self.data
        return max(1, (world_size or self.fixed) // self.fixed)


def degrees_of(facts: Facts) -> Degrees:
    """The degrees as MindFormers takes them."""
    names = ("tensor_parallel", "pipeline_parallel", "context_parallel")
    tensor, pipeline, context = (max(1, facts.count(name, 1)) for name in names)
    if facts.generation is Generation.PYNATIVE:
        return Degrees(data=None, tensor=tensor, pipeline=pipeline, context=context)
    if not facts.is_on("use_parallel"):
        data = facts.count("data_parallel", 1)
        if data * tensor * pipeline * context > 1:
            facts.note("parallelism", "use_parallel is off: one process, whatever the degrees say", "use_parallel")
        return Degrees(data=1, tensor=1, pipeline=1, context=1)
    if str(facts.value("parallel_mode", 1)).lower() in _PLAIN_MODES:
        facts.note(
            "parallelism", "parallel_mode 0: every process has the whole model and a part of the batch", "parallel_mode"
        )
        return Degrees(data=None, tensor=1, pipeline=1, context=1)
    return Degrees(data=facts.count("data_parallel", 1), tensor=tensor, pipeline=pipeline, context=context)


def build_parallelism(
    facts: Facts, degrees: Degrees, layers: tuple[int, int], world_size: int | None
) -> dict[str, Any]:
    """The section; `layers` are those of the decoder and of multi-token prediction."""
    section = _data_axes(facts, degrees, world_size)
    section |= {
        "tensor_parallel": degrees.tensor,
        "pipeline_parallel": degrees.pipeline,
        "context_parallel": degrees.context,
        "expert_parallel": _experts(facts, degrees, "expert_parallel"),
        "expert_tensor_parallel": _experts(facts, degrees, "expert_tensor_parallel"),
    }
    if degrees.context > 1:
        section["context"] = _context(facts)
    if degrees.pipeline > 1:
        section["pipeline"] = _pipeline(facts, degrees.pipeline, layers)
    return section


def _experts(facts: Facts, degrees: Degrees, fact: str) -> int:
    degree = facts.count(fact, 1)
    return max(1, degree) if degrees.data is None or degrees.data * degrees.fixed > 1 else 1


def _data_axes(facts: Facts, degrees: Degrees, world_size: int | None) -> dict[str, Any]:
    if facts.generation is Generation.PYNATIVE:
        return _pynative_axes(facts, degrees, world_size)
    if not facts.is_on("optimizer_is_sharded"):
        shard = _at_least_for_experts(facts, degrees, 1, world_size)
        return _axes(degrees, shard, "optimizer", world_size)
    size = facts.count("shard_size", -1)
    data = degrees.data_size(world_size)
    shard = data if size <= 0 or size >= data else size
    if data % shard:
        facts.refuse("shard_size", f"does not divide the {data} ranks of data_parallel")
        shard = data
    shard = _at_least_for_experts(facts, degrees, shard, world_size)
    return _axes(degrees, shard, _what_is_sharded(facts), world_size)


def _axes(degrees: Degrees, shard: int, sharded: str, world_size: int | None) -> dict[str, Any]:
    if degrees.data is None and world_size is None:
        return {"data_parallel_shard": -1, "sharded": sharded}
    replicas = degrees.data_size(world_size) // shard
    return {"data_parallel_replicate": replicas, "data_parallel_shard": shard, "sharded": sharded}


def _at_least_for_experts(facts: Facts, degrees: Degrees, shard: int, world_size: int | None) -> int:
    """Groups of experts are cut out of the ranks that shard, so these must be enough."""
    experts = _experts(facts, degrees, "expert_parallel") * _experts(facts, degrees, "expert_tensor_parallel")
    data = degrees.data_size(world_size)
    within = degrees.tensor * degrees.context
    enough = next((one for one in range(shard, data + 1) if data % one == 0 and one * within % experts == 0), shard)
    if enough != shard:
        facts.note(
            "parallelism",
            f"data_parallel_shard is {enough}, not {shard}: groups of {experts} ranks with different experts are cut "
            "out of the ranks that shard; results do not depend on it",
        )
    return enough


def _what_is_sharded(facts: Facts) -> str:
    if facts.is_on("parameters_are_gathered_again"):
        return "all"
    return "optimizer+gradients" if facts.is_on("gradients_are_sharded") else "optimizer"


def _pynative_axes(facts: Facts, degrees: Degrees, world_size: int | None) -> dict[str, Any]:
    strategy = str(facts.value("shard_strategy", "optim_grads_params"))
    if strategy not in _SHARDED:
        facts.refuse("shard_strategy", f"is not known; use {', '.join(_SHARDED)}")
    sharded = _SHARDED.get(strategy, "all")
    shard = facts.count("data_parallel_shard", -1)
    if shard == -1:
        return {"data_parallel_shard": -1, "sharded": sharded}
    replicas = max(1, (world_size or shard * degrees.fixed) // (shard * degrees.fixed))
    return {"data_parallel_replicate": replicas, "data_parallel_shard": shard, "sharded": sharded}


def _context(facts: Facts) -> dict[str, Any]:
    kind = _CONTEXT_KINDS.get(str(facts.value("context_kind", "colossalai_cp")))
    if kind is None:
        facts.refuse("context_kind", f"is not known; use {', '.join(_CONTEXT_KINDS)}")
    return (
        {"kind": "mixed", "all_to_all": facts.count("ulysses_degree", 1)}
        if kind == "mixed"
        else {"kind": kind or "ring"}
    )


def _pipeline(facts: Facts, degree: int, layers: tuple[int, int]) -> dict[str, Any]:
    stages = max(1, facts.count("stages_per_rank", 1))
    schedule = _schedule(facts, stages)
    pipeline: dict[str, Any] = {"schedule": schedule}
    if stages > 1:
        pipeline["stages_per_rank"] = stages
    split = stage_split(facts, degree, stages, layers)
    if split is not None:
        pipeline["split"] = split
    if facts.count("sequence_parts", 1) > 1:
        facts.note(
            "parallelism", "sequences travel whole through the pipeline, not in seq_split_num parts", "sequence_parts"
        )
    return pipeline


def _schedule(facts: Facts, stages: int) -> str:
    written = str(facts.value("pipeline_schedule", "1f1b") or "1f1b").lower()
    usual = "interleaved_1f1b" if stages > 1 else "1f1b"
    if written == "zero_bubble_v":
        return "zbv_zero_bubble"
    if written == "gpipe":
        return "looped_bfs" if stages > 1 else "gpipe"
    if written in ("1f1b", "interleaved_1f1b", "seqpipe", "seqvpp", "seqsmartvpp"):
        if written.startswith("seq"):
            facts.note("parallelism", f"{written} is {usual}: sequences travel whole", "pipeline_schedule")
        return usual
    facts.refuse("pipeline_schedule", "is not there; 1f1b, interleaved_1f1b, gpipe and zero_bubble_v are")
    return usual
