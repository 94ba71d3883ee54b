"""RunConfig, the root of the configuration: one section for each concern."""

from typing import Annotated

from pydantic import Field

from firstlight.config.averages import AveragesConfig
from firstlight.config.data import DataConfig
from firstlight.config.kernels import KernelsConfig
from firstlight.config.model import ModelConfig
from firstlight.config.monitor import MonitorConfig
from firstlight.config.optimizer import OptimizerChoice
from firstlight.config.phases import Phase
from firstlight.config.recompute import NoRecompute, OffloadConfig, Recompute
from firstlight.config.schedule import ConstantSchedule, Schedule
from firstlight.config.section import Section
from firstlight.config.training import (
    CheckpointConfig,
    ParallelismConfig,
    ResilienceConfig,
    TrainingConfig,
)


class RunConfig(Section):
    """Everything that defines a run."""

    model: ModelConfig
    data: DataConfig
    phases: tuple[Phase, ...] = ()
    """What changes at given points of the run: source weights, sequence length, rotary embedding."""
    parallelism: ParallelismConfig = ParallelismConfig()
    optimizer: OptimizerChoice
    lr_scheduler: Schedule = ConstantSchedule()
    averages: AveragesConfig = AveragesConfig()
    training: TrainingConfig
    kernels: KernelsConfig = KernelsConfig()
    recompute: Annotated[Recompute, Field(discriminator="kind")] = NoRecompute()
    offload: OffloadConfig = OffloadConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    resilience: ResilienceConfig = ResilienceConfig()
    monitor: MonitorConfig = MonitorConfig()
