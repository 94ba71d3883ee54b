"""RunConfig to Parts and TrainState: the only place of the room that names concrete classes."""

from dataclasses import dataclass

import torch

from firstlight.base.log import get_logger
from firstlight.checkpoint.checkpointer import AfterSave, Checkpointer, Role
from firstlight.checkpoint.object_store import StoredCopies, open_store
from firstlight.checkpoint.step_folder import candidates
from firstlight.config.pipeline import SPLITS_BACKWARD
from firstlight.config.schedule import Now, unscheduled
from firstlight.config.scheduled_numbers import learning_rate_of, span_of
from firstlight.config.schema import RunConfig
from firstlight.convert.hub_weights import read_weights
from firstlight.data.checked_dataset import CheckedDataset
from firstlight.data.metadata import bytes_per_token
from firstlight.data.open import TrainingNeeds, open_held_out, open_training_data
from firstlight.data.reader import Reader, ThreadReader
from firstlight.data.samples import Dataset
from firstlight.data.stream import Masking, TokenStream
from firstlight.data.tokenizer import check_vocabulary, end_of_document_id, load_tokenizer
from firstlight.data.worker import Assignment
from firstlight.data.worker_reader import WorkerReader
from firstlight.layout.counts import count_parameters, flops_per_token
from firstlight.layout.mesh import Layout
from firstlight.layout.stages import Stage, stages_of, stages_on
from firstlight.models.balancing import BiasBalancing
from firstlight.optim.optimizer import Optimizer, Progress, Surroundings
from firstlight.optim.schedule import number_at
from firstlight.parallel.apply import (
    Keeping,
    LaidOut,
    buffer_names,
    build_parallel,
    copies_in,
    parameter_names,
    routers,
)
from firstlight.parallel.device import (
    has_fused_adamw,
    require_memory_apart,
)
from firstlight.parallel.engine import Engine, PlainEngine, Work
from firstlight.parallel.group import sum_over_ranks
from firstlight.parallel.losses import RankSums
from firstlight.parallel.pipelined_engine import PipelinedEngine
from firstlight.resilience.guard import Guard
from firstlight.train.evaluate import EvaluationPlan, Evaluator, HeldOutSet, Portion
from firstlight.train.exports import PeriodicExport
from firstlight.train.loop import Parts
from firstlight.train.place import Place
from firstlight.train.recording import CheckpointEvents, measures_of, recorder_of, update_watch
from firstlight.train.run_folder import DATA
from firstlight.train.state import TrainState

AUTOCAST_DTYPES = {"fp32": None, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The data of a run, opened and checked before anything is built."""

    train: Dataset
    needs: TrainingNeeds
    train_fingerprint: str
    held_out: list[HeldOutSet]
    masking: Masking


def open_inputs(config: RunConfig) -> Inputs:
    """Open tokenizer and data sets. Raises InputError when one is missing, damaged, or does not fit the model."""
    check_vocabulary(config.data.tokenizer, config.model.vocab_size)
    end_of_document = None
    if config.data.train.mask_after_end_of_document:
        end_of_document = end_of_document_id(load_tokenizer(config.data.tokenizer), config.data.tokenizer, None)
    training = config.training
    needs = TrainingNeeds(
        steps=training.steps,
        global_batch_size=training.global_batch_size,
        seed=training.seed,
        vocab_size=config.model.vocab_size,
    )
    train = open_training_data(config.data, needs)
    return Inputs(
        train=train.dataset,
        needs=needs,
        train_fingerprint=train.fingerprint,
        held_out=open_held_out_sets(config),
        masking=Masking(end_of_document=end_of_document, separates_documents=config.data.train.documents == "separate"),
    )


def open_held_out_sets(config: RunConfig) -> list[HeldOutSet]:
    """The held-out sets of `data.evaluate`."""
    length = config.data.train.sequence_length
    return [
        HeldOutSet(
            name=one.name,
            dataset=CheckedDataset(open_held_out(one, length), name=str(one.path), vocab_size=config.model.vocab_size),
            bytes_per_token=bytes_per_token(one.path),
        )
        for one in config.data.evaluate
    ]


def held_out_masking(config: RunConfig) -> Masking:
    """Documents of held-out sets stand for themselves when those of training do."""
    return Masking(separates_documents=config.data.train.documents == "separate")


def assemble(config: RunConfig, inputs: Inputs, place: Place) -> tuple[Parts, TrainState]:
    """Build the run on this rank. Collective: every rank builds its part."""
    torch.use_deterministic_algorithms(config.training.deterministic)
    require_memory_apart(place.device, config.offload)
    layout = Layout.of(config.parallelism, place.world.size)
    model = _laid_out(config, layout, place)
    progress = Progress()
    now = _now(config, progress)
    balancing = BiasBalancing(routers(*model.stages), now)
    sums, watch = RankSums(layout=layout), update_watch(config, model.stages)
    engine = build_engine(config, sums, model, balancing, now)
    guard = Guard(config.resilience, place.peers)
    around = Surroundings(
        learning_rate=number_at(learning_rate_of(config), span_of(config)),
        sum_over_ranks=sum_over_ranks,
        before_update=watch.before_update,
        after_update=balancing.update,
        is_fused=has_fused_adamw(place.device),
        keeps_moments_in_host=config.offload.optimizer_state == "host",
        copies=copies_in(layout),
        num_heads=config.model.attention.num_attention_heads,
        now=now,
        progress=progress,
    )
    state = TrainState(
        stages=model.stages,
        optimizer=Optimizer(parameter_names(*model.stages), config.optimizer, around),
        data=_stream(config, inputs, layout, place.world.rank),
        data_fingerprint=inputs.train_fingerprint,
        guard=guard,
        total_steps=config.training.steps,
        accept_data=place.accept_data if DATA in place.accepted else None,
    )
    measures = measures_of(config, place, layout, sums.last, optimizer=state.optimizer, watch=watch)
    parts = Parts(
        engine=engine,
        checkpointer=Checkpointer(
            place.folder.checkpoints,
            config.checkpoint,
            place.peers,
            configuration=config.model_dump(mode="json"),
            role=Role(writes_whole_tensors=layout.is_first_of_stage(place.world.rank), is_ours=place.lock.is_held),
            after_save=_after_save(config, place),
        ),
        guard=guard,
        recorder=recorder_of(config, place, measures, AUTOCAST_DTYPES[config.training.precision]),
        evaluator=Evaluator(engine, inputs.held_out, _evaluation_plan(config, layout), _portion(layout, place)),
    )
    return parts, state


def _laid_out(config: RunConfig, layout: Layout, place: Place) -> LaidOut:
    """The model on this rank, initialised or with the weights that it starts from."""
    model = build_parallel(
        config.model,
        layout,
        Keeping(
            recompute=config.recompute,
            offloaded=config.offload.activations,
            splits_backward=layout.pp > 1 and config.parallelism.pipeline.schedule in SPLITS_BACKWARD,
        ),
        stages=_stages(config, layout, place.world.rank),
        device=place.device,
        seed=config.training.seed,
    )
    if config.model.from_hf is not None and not candidates(place.folder.checkpoints):
        get_logger().info(f"starting from the weights in {config.model.from_hf}")
        read_weights(config.model, config.model.from_hf, parameter_names(*model.stages) | buffer_names(*model.stages))
    return model


def _after_save(config: RunConfig, place: Place) -> list[AfterSave]:
    """What is done with every published checkpoint."""
    acts: list[AfterSave] = [CheckpointEvents(place.events)]
    if config.checkpoint.copy_to is not None:
        acts.append(StoredCopies(open_store(config.checkpoint.copy_to), config.checkpoint))
    if config.checkpoint.export_every_steps:
        acts.append(PeriodicExport(config, place.folder))
    return acts


def build_engine(
    config: RunConfig, sums: RankSums, model: LaidOut, balancing: BiasBalancing, now: Now = unscheduled
) -> Engine:
    """The engine for a model that is laid out already."""
    work = Work(
        micro_batch_size=config.training.micro_batch_size,
        autocast_dtype=AUTOCAST_DTYPES[config.training.precision],
        sums=sums,
        balancing=balancing,
        now=now,
    )
    if model.pipeline_group is None:
        (whole,) = model.stages
        return PlainEngine(whole, work)
    return PipelinedEngine(model, config.parallelism.pipeline.schedule, work)


def run_facts(config: RunConfig, place: Place) -> dict[str, object]:
    """What `run.json` says beside versions."""
    counts = count_parameters(config.model)
    return {
        "parameters": counts.total,
        "activated_parameters": counts.activated,
        "flops_per_token": flops_per_token(config.model, config.data.train.sequence_length),
        "world_size": place.world.size,
        "device": place.device.type,
    }


def _stages(config: RunConfig, layout: Layout, rank: int) -> list[Stage]:
    """The stages of the pipeline that `rank` has."""
    pipeline = config.parallelism.pipeline
    stages = stages_of(config.model, pipeline, layout.pp, config.data.train.sequence_length)
    return [stages[index] for index in stages_on(layout.coordinates(rank)["pp"], layout.pp, pipeline)]


def _now(config: RunConfig, progress: Progress) -> Now:
    """Scheduled numbers, for the update to come."""
    span = span_of(config)
    return lambda number: number_at(number, span)(progress.updates)


def _stream(config: RunConfig, inputs: Inputs, layout: Layout, rank: int) -> TokenStream:
    return TokenStream(
        inputs.train,
        global_batch_size=config.training.global_batch_size,
        micro_batch_size=config.training.micro_batch_size,
        data_rank=layout.data_rank(rank),
        data_size=layout.data_size,
        masking=inputs.masking,
        reader=_reader(config, inputs),
    )


def _reader(config: RunConfig, inputs: Inputs) -> Reader:
    loader = config.data.loader
    if loader.workers:
        return WorkerReader(Assignment(config=config.data, needs=inputs.needs), loader.workers)
    return ThreadReader(inputs.train, loader.prefetch)


def _portion(layout: Layout, place: Place) -> Portion:
    return Portion(peers=place.peers, data_rank=layout.data_rank(place.world.rank), data_size=layout.data_size)


def _evaluation_plan(config: RunConfig, layout: Layout) -> EvaluationPlan:
    training = config.training
    return EvaluationPlan(
        every_steps=training.evaluate_every_steps,
        last_step=training.steps,
        max_samples=training.evaluate_samples,
        batch_size=_evaluation_batch(config, layout),
        masking=held_out_masking(config),
    )


def _evaluation_batch(config: RunConfig, layout: Layout) -> int:
    """Sequences that a rank evaluates at once: one micro-batch, or as many as fill the pipeline in training."""
    training = config.training
    return training.micro_batch_size if layout.pp == 1 else training.global_batch_size // layout.data_size
