"""What is planned: the parts of a run that decide its memory and time, and what a training system does beside them."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from firstlight.config.model import ModelConfig
from firstlight.config.optimizer import AdamWConfig
from firstlight.config.pipeline import PipelineConfig
from firstlight.config.precision import PRODUCT_TYPES
from firstlight.config.precision import Precision as Choice
from firstlight.config.recompute import FullRecompute, NoRecompute, Recompute
from firstlight.config.schema import RunConfig
from firstlight.config.timeline import timeline_of
from firstlight.layout.activations import Numbers, Portion
from firstlight.layout.batch import accumulation_steps
from firstlight.layout.memory import Kept
from firstlight.layout.mesh import Layout
from firstlight.layout.number_bytes import NumberBytes
from firstlight.layout.schedules import Slot, orders_of, repeats
from firstlight.layout.stages import Stage, stages_of, stages_on
from firstlight.layout.traffic import StepShape
from firstlight.plan.hardware import Kernels, Precision


@dataclass(frozen=True, kw_only=True)
class Practice:
    """How a training system computes and communicates. The defaults are Firstlight's own with bf16: autocast casts what
    products read, and all else stays in fp32.

    Published runs were made by other systems; the tests describe these by the same fields.
    """

    precision: Precision = "bf16"
    """Of matrix products."""
    numbers: Numbers = Numbers(product=2)
    """Of what layers keep."""
    number_bytes: int = 4
    """Of activations that travel."""
    gathered_bytes: int = 4
    """Of parameters that are gathered."""
    sum_bytes: int = 4
    """Of gradients while they are summed."""
    parameter_bytes: int = 4
    """Of a rank's shards; with `moment_bytes` and gradients what it holds between steps."""
    gradient_bytes: int = 4
    moment_bytes: int = 8
    """Of AdamW's two moments, if they were all that is kept; other optimizers in proportion."""
    attention: Literal["fused", "matrix"] = "fused"
    """Whether scores are kept in fast memory, or written out and computed again (Megatron-LM before FlashAttention)."""
    has_fused_pointwise: bool = False
    """Whether a compiler joins norms, rotations and activations."""
    hides_tensor: float = 0.0
    """The share of transfers in tensor groups that run beside products."""
    hides_experts: Literal["no", "shared_expert", "paired"] = "shared_expert"
    """What is computed while rows travel to experts: nothing, the shared expert, or the other pass of a pair."""
    dispatch_bytes: int = 4
    """Of a number on its way to an expert; on the way back it has those of products."""
    receives_apart: bool = True
    """Whether a pipeline has a buffer for each micro-batch that it receives, as torch's have."""
    sends_rows_once_per_node: bool = False
    """Whether a token's row crosses between nodes once for all experts there."""


def _own_practice(precision: Choice, kernels: Kernels) -> Practice:
    """Firstlight's own, in that precision."""
    product, gathered = PRODUCT_TYPES[precision.kind], NumberBytes.of(precision).gathered
    products: Precision = "fp8" if precision.kind == "fp8" else "fp32" if product is None else "bf16"
    return Practice(
        precision=products,
        numbers=Numbers(
            stream=gathered,
            product=4 if product is None else 2,
            pads_values=kernels.pads_values,
            keeps_softmax=kernels.keeps_softmax,
        ),
        number_bytes=gathered,
        gathered_bytes=gathered,
        sum_bytes=kernels.sum_bytes,
        dispatch_bytes=gathered,
    )


@dataclass(frozen=True, kw_only=True)
class Work:
    """A run, as far as a plan needs it."""

    model: ModelConfig
    layout: Layout
    pipeline: PipelineConfig = PipelineConfig()
    sequence_length: int
    micro_batch_size: int = 1
    micro_batches: int
    """Of each rank in a step."""
    recompute: Recompute = NoRecompute()
    practice: Practice = field(default_factory=Practice)
    kept: Kept = field(default_factory=lambda: Kept(optimizer=AdamWConfig(learning_rate=1.0)))
    """The optimizer and averages, by what they keep."""

    @classmethod
    def of(cls, config: RunConfig, world_size: int, kernels: Kernels) -> "Work":
        """The run of `config` on `world_size` ranks with such `kernels`, in its last phase and behind its ramp. The
        configuration's rules hold."""
        layout, training = Layout.of(config.parallelism, world_size), config.training
        last = timeline_of(config).stretches[-1]
        return cls(
            model=config.model,
            layout=layout,
            pipeline=config.parallelism.pipeline,
            sequence_length=last.sequence_length,
            micro_batch_size=training.micro_batch_size,
            micro_batches=accumulation_steps(
                global_batch_size=last.batch_size,
                micro_batch_size=training.micro_batch_size,
                data_size=layout.data_size,
            ),
            recompute=config.recompute,
            practice=_own_practice(training.precision, kernels),
            kept=Kept(optimizer=config.optimizer, averages=config.averages),
        )

    @cached_property
    def stages(self) -> list[Stage]:
        """Of the whole pipeline."""
        return stages_of(self.model, self.pipeline, self.layout.pp, self.sequence_length)

    def places_of(self, rank: int) -> list[int]:
        """The indices of the stages at a place of the pipeline."""
        return stages_on(rank, self.layout.pp, self.pipeline) if self.layout.pp > 1 else [0]

    @property
    def orders(self) -> list[list[Slot]]:
        """What each place of the pipeline does in a step, or in enough of a long one to hold the most that it ever
        holds."""
        return orders_of(self.pipeline, self.layout.pp, self.representative)

    @property
    def representative(self) -> int:
        """Micro-batches of a step that holds as much."""
        few, degree = 8 * self.layout.pp, self.layout.pp
        if self.micro_batches <= few or not repeats(self.pipeline, degree, self.micro_batches):
            return self.micro_batches
        return few + self.micro_batches % degree

    @property
    def step(self) -> StepShape:
        """What a rank does in a step, and the bytes of activations that travel."""
        return self._step_of(self.practice.number_bytes)

    @property
    def gathers(self) -> StepShape:
        """The same with the bytes of parameters that are gathered."""
        return self._step_of(self.practice.gathered_bytes)

    def _step_of(self, number_bytes: int) -> StepShape:
        return StepShape(
            sequence_length=self.sequence_length,
            micro_batch_size=self.micro_batch_size,
            micro_batches=self.micro_batches,
            number_bytes=number_bytes,
            sum_bytes=self.practice.sum_bytes,
        )

    @property
    def portion(self) -> Portion:
        """A micro-batch of a rank."""
        return Portion(sequences=self.micro_batch_size, length=self.sequence_length // self.layout.cp)

    @property
    def tokens_per_step(self) -> int:
        """Over all ranks."""
        return self.sequence_length * self.micro_batch_size * self.micro_batches * self.layout.data_size

    @property
    def repeated(self) -> NoRecompute | FullRecompute:
        """As communication asks for it: only whole layers repeat calls."""
        return self.recompute if isinstance(self.recompute, NoRecompute | FullRecompute) else NoRecompute()
