"""The sections of a run that are small: parallelism, training and what guards it."""

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from firstlight.config.batch import GlobalBatch
from firstlight.config.context import Context, RingContext
from firstlight.config.faults import PlantedFault
from firstlight.config.pipeline import PipelineConfig
from firstlight.config.precision import Fp32Precision, PrecisionChoice
from firstlight.config.rewind import RewindConfig
from firstlight.config.schedule import Steps
from firstlight.config.section import AbsolutePath, Count, NotNegative, Positive, Section

Sharded = Literal["optimizer", "optimizer+gradients", "all"]


class ParallelismConfig(Section):
    """The degree of each axis. Their product, those of experts aside, is the number of processes."""

    data_parallel_replicate: Count = 1
    """Copies of the sharded model (HSDP)."""
    data_parallel_shard: Annotated[int, Field(ge=-1)] = -1
    """Ranks over which parameters, gradients and optimizer state are sharded (FSDP2); -1 takes all that are left."""
    sharded: Sharded = "all"
    """What data_parallel_shard shards while a step runs: the optimizer's state and the parameters it updates (ZeRO-1),
    the sums of gradients too (ZeRO-2), or parameters as well, which each layer gathers when it needs them (ZeRO-3)."""
    tensor_parallel: Count = 1
    """Neighbouring ranks over which each layer's matrices are cut, and between layers the sequence."""
    pipeline_parallel: Count = 1
    """Groups of ranks that hold consecutive layers and hand micro-batches on."""
    context_parallel: Count = 1
    """Ranks that hold parts of each sequence. Attention brings keys and values together."""
    expert_parallel: Count = 1
    """Neighbouring ranks that hold different routed experts. They are cut out of data_parallel_shard x
    context_parallel x tensor_parallel, so this degree is no factor of the number of processes."""
    expert_tensor_parallel: Count = 1
    """Neighbouring ranks over which the matrices of each routed expert are cut: those that expert_parallel tells apart
    are groups of so many."""

    context: Context = RingContext()
    """How attention sees the positions of other ranks, where context_parallel is more than 1."""
    pipeline: PipelineConfig = PipelineConfig()

    @property
    def fixed_size(self) -> int:
        """The product of all degrees but data_parallel_shard."""
        return self.data_parallel_replicate * self.pipeline_parallel * self.context_parallel * self.tensor_parallel

    @model_validator(mode="after")
    def _shard_is_a_degree(self) -> "ParallelismConfig":
        if self.data_parallel_shard == 0:
            raise ValueError("data_parallel_shard = 0; use -1 for all remaining ranks, or a number from 1")
        return self


class TrainingConfig(Section):
    """How long, in which portions, how exactly, and where the run's folder is."""

    steps: Count
    global_batch_size: GlobalBatch
    """Sequences per optimizer step, over all ranks; or `{samples: N}` or `{tokens: N}`, with a `ramp`."""
    micro_batch_size: Count = 1
    """At most so many sequences per forward and backward on one rank; accumulation follows from it."""
    precision: PrecisionChoice = Fp32Precision()
    """The name of a kind, or a section with its settings. Weights are kept in fp32 in all of them."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    deterministic: bool = False
    """Refuse operations whose result may differ between two equal runs."""
    evaluate_every_steps: Steps = 0
    """Steps between evaluations on the held-out sets; 0: only after the last step."""
    evaluate_samples: Count = 256
    """At most this many sequences of each held-out set."""
    stop_at_step: Steps = 0
    """Save and leave with exit code 75 after this step, as at a request to stop; 0: go on to the last."""
    output_folder: AbsolutePath


AUTO: Final = "auto"


class MindFormersFiles(Section):
    """The weights of every save, whole, where and as MindFormers' core models have them: checkpoint/rank_0 in the run's
    folder, with meta.json. As many are kept as `keep_last` says."""

    prefix: Annotated[str, Field(pattern=r"^[\w.-]+$")] = "CKP"
    """How the names of files begin: PREFIX_rank_0-EPOCH_STEP.safetensors."""
    steps_per_epoch: Count = 1
    """Of which EPOCH and STEP are made; 1 as with MindSpore's `sink_size: 1`, where every step is an epoch."""
    gate_up: Literal["interleaved", "joined"] = "interleaved"
    """Gate and up rows of linear_fc1 in turn (`use_interleaved_weight_layout_mlp`), or one after the other."""
    qkv: Literal["grouped", "joined"] = "grouped"
    """Heads of linear_qkv by group, or queries, keys and values one after the other
    (`use_contiguous_weight_layout_attention`)."""
    up_to_gigabytes: Positive = 50
    """Larger weights are not written: one rank writes them all. `firstlight convert` does, when it is asked to."""


class CheckpointConfig(Section):
    """When the state is saved, and how many saves are kept. The last step is always saved."""

    save_every_steps: Steps | Literal["auto"] = 100
    """auto: as often as pays, by what a save costs as measured and by `mean_hours_between_failures`; 0: never."""
    mean_hours_between_failures: Positive = 24
    """Of the whole run, on all its machines; for `save_every_steps: auto` (Young and Daly)."""
    save_every_minutes: NotNegative = 0
    """Save also when so many minutes have passed since the last save began; 0: by steps only."""
    keep_last: Count = 3
    keep_every_steps: Steps = 0
    """Keep also, for ever, the saves of steps that are a multiple of this; 0: none."""
    asynchronous: bool = True
    """A step waits only for a copy in host memory; files are written while training goes on. Without it nothing is
    copied, and the step waits for the files."""
    export_every_steps: Steps = 0
    """Save after multiples of this, and write the weights as a Hugging Face folder exports/step-N; 0: none."""
    export_dtype: Literal["fp32", "bf16"] = "fp32"
    """Data type of the weights in exports."""
    mindformers_files: MindFormersFiles | None = None
    """Weights for MindFormers and for scripts that look for its files; null: none."""
    copy_to: str | None = None
    """Where object storage is: a URL such as s3://bucket/folder (needs firstlight[object-storage]). Every checkpoint is
    copied there, and a run in an empty folder goes on from there; null: nowhere."""
    key_file: AbsolutePath | None = None
    """A file with a secret of 32 bytes or more, by which manifests are signed (HMAC-SHA256). What is not signed by it
    is not loaded; null: nothing is signed."""


class ResilienceConfig(Section):
    """What happens when numbers, processes or machines go wrong."""

    on_not_finite: Literal["skip", "stop"] = "skip"
    """A step whose gradient norm is not finite leaves the weights as they are; then go on (skip) or end the run."""
    max_skipped_steps: Count = 10
    """Consecutive skipped steps, for whatever reason, after which the run rewinds, or ends if it may not."""
    rewind: RewindConfig = RewindConfig()
    check_replicas_every_steps: Steps = 0
    """Compare what several ranks hold alike, byte for byte by its hash, after multiples of this; 0: never."""
    replay_every_steps: Steps = 0
    """Before steps that are multiples of this, every rank computes forward and backward of a micro-batch (in a pipeline
    of its whole batch) twice and compares all layers bit by bit, and a third time when they differ; 0: never. Needs
    training.deterministic."""
    on_corruption: Literal["rewind", "stop"] = "rewind"
    """When ranks hold different values of the same weights or moments: go back to a checkpoint of before the last
    comparison that found none, within the budget of `rewind.times`, or end the run."""
    snapshot_every_steps: Steps = 0
    """Keep the state in the machine's memory (/dev/shm) after multiples of this. Two copies outlive their process, and
    a restart takes the newest before it looks on the disk; 0: none. Of several machines each has another's too."""
    max_restarts: Steps = 10
    """How often the ranks start again, on all nodes, after one has failed; 0: a failure ends the run."""
    same_failure_limit: Count = 3
    """A failure of the same kind, rank and step ends the run when it comes for the so manieth time."""
    frozen_after_seconds: Positive = 20
    """A process that has given no sign of life for so long is ended, and the ranks start again."""
    hung_after_seconds: Positive = 60
    """A phase of a step that lasts so long, and five times as long as it ever did, hangs: the rank that is behind is
    named and ended, and the ranks start again."""
    first_phase_seconds: Positive = 1800
    """The same for phases that have not ended once, as the first step compiles, reads and waits, and for saving."""
    node_lost_after_seconds: Positive = 5
    """A node of several whose supervisor has said nothing for so long is lost, and the ranks of all nodes end."""
    node_return_seconds: Positive = 600
    """How long the others wait for a lost node, or for another machine in its place; then the run ends, or goes on as
    `min_nodes` says."""
    min_nodes: Count | None = None
    """Of the nodes that a run was started with, so many are enough to go on, with fewer data-parallel ranks, when the
    others have not come back in time. One that comes later is taken in at a step's end; null: all are needed."""
    slow_rank_ratio: Annotated[float, Field(gt=1)] | None = 1.5
    """A rank that takes so many times as long as the others for its own work, fetching data and the forward passes of
    its layers, is named in the log and in events.jsonl; null: none is."""
    inject: tuple[PlantedFault, ...] = ()
    """Faults to rehearse. Each happens once in a run."""
