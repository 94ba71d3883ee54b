"""RunConfig to a Recorder: what is measured on this rank, and the sinks of the first one."""

from functools import partial
from pathlib import Path

import torch

from firstlight.checkpoint.manifest import Manifest
from firstlight.config.schema import RunConfig
from firstlight.config.timeline import timeline_of
from firstlight.layout.counts import flops_per_token
from firstlight.layout.mesh import Layout
from firstlight.models.decoder import Decoder
from firstlight.models.moe import mixture_names
from firstlight.observe.events import EventLog
from firstlight.observe.mindformers_lines import RunSize
from firstlight.observe.profile import PROFILE_FOLDER, TorchProfile
from firstlight.observe.recorder import Instruments, Recorder, RunFacts
from firstlight.observe.sinks import sinks_for
from firstlight.optim.optimizer import Optimizer
from firstlight.parallel.apply import copies_in, parameter_names
from firstlight.parallel.arithmetic import Arithmetic
from firstlight.parallel.device import device_health, measure_peak_flops, peak_memory_bytes, snapshot_memory
from firstlight.parallel.last_step import LastStep
from firstlight.train.measures import Measured, StepMeasures, UpdateWatch
from firstlight.train.place import Place


def update_watch(config: RunConfig, stages: list[Decoder]) -> UpdateWatch:
    """What looks at parameters before an update; the optimizer is told of it."""
    return UpdateWatch(parameters=parameter_names(*stages), is_wanted="updates" in config.monitor.measure)


def measures_of(
    config: RunConfig, place: Place, layout: Layout, last: LastStep, *, optimizer: Optimizer, watch: UpdateWatch
) -> StepMeasures:
    """What is measured at recorded steps."""
    measured = Measured(
        parameters=watch.parameters,
        mixture_names=mixture_names(config.model),
        num_layers=config.model.num_hidden_layers,
        copies=copies_in(layout),
        last=last,
        health=lambda: device_health(place.device),
    )
    return StepMeasures(config.monitor.measure, measured, optimizer, watch, layout=layout, peers=place.peers)


def recorder_of(config: RunConfig, place: Place, measures: StepMeasures) -> Recorder:
    """The recorder of this rank. Collective."""
    total_steps, precision = config.training.steps, config.training.precision.kind
    peak, convention = config.monitor.peak_flops_per_second, f"{precision} peak as configured"
    if peak is None:
        dtype = Arithmetic.of(config.training.precision, place.device).product_dtype or torch.float32
        peak = measure_peak_flops(place.device, dtype)
        convention = f"{str(dtype).removeprefix('torch.')} matrix products as measured at the start"
    facts = RunFacts(
        total_steps=total_steps,
        flops_per_token=partial(flops_per_token, config.model),
        peak_flops_per_second=place.peers.sum([peak])[0],
        precision=convention,
    )
    last = timeline_of(config).stretches[-1]
    size = RunSize(
        total_steps=total_steps,
        global_batch_size=last.batch_size,
        num_devices=place.world.size,
        flops_per_token=facts.flops_per_token(last.sequence_length),
    )
    is_first, folder = place.world.rank == 0, place.folder.path
    return Recorder(
        config=config.monitor,
        sinks=sinks_for(config.monitor, folder=folder, size=size, events=place.events) if is_first else (),
        facts=facts,
        instruments=Instruments(
            memory_bytes=lambda: peak_memory_bytes(place.device),
            measures=measures,
            profile=_profile(config, place, folder),
        ),
        events=place.events,
    )


def _profile(config: RunConfig, place: Place, folder: Path) -> TorchProfile | None:
    profile = config.monitor.profile
    if profile is None or place.world.rank not in profile.ranks:
        return None
    return TorchProfile(
        profile,
        folder / PROFILE_FOLDER,
        rank=place.world.rank,
        events=place.events,
        snapshot_memory=lambda path: snapshot_memory(place.device, path),
    )


class CheckpointEvents:
    """Tells the events of every published checkpoint; see `checkpoint.checkpointer.AfterSave`."""

    def __init__(self, events: EventLog) -> None:
        self._events = events

    def __call__(self, saved: Path, manifest: Manifest) -> None:
        facts = {"checkpoint": saved.name, "is_healthy": manifest.is_healthy}
        text = f"{saved.name} saved" + ("" if manifest.is_healthy else ", unhealthy")
        self._events.add("checkpoint", manifest.step, text, facts)
