"""RunConfig to Parts and TrainState: the only place of the room that names concrete classes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from firstlight.base.heartbeat import Heart
from firstlight.base.log import get_logger
from firstlight.checkpoint.step_folder import candidates
from firstlight.config.data import HeldOutBlend
from firstlight.config.monitor import SamplesConfig
from firstlight.config.phase_rules import final_batches
from firstlight.config.pipeline import SPLITS_BACKWARD
from firstlight.config.precision import Fp16Precision
from firstlight.config.schedule import Now
from firstlight.config.scheduled_numbers import learning_rate_of
from firstlight.config.schema import RunConfig
from firstlight.config.timeline import attentions_of, sequence_lengths, timeline_of
from firstlight.convert.hub_weights import read_weights
from firstlight.data.avoided import Ranges
from firstlight.data.checked_dataset import CheckedDataset
from firstlight.data.cut import PhaseNeeds
from firstlight.data.metadata import bytes_per_token
from firstlight.data.open import TrainingNeeds, open_held_out, open_training_data
from firstlight.data.reader import Reader, ThreadReader
from firstlight.data.samples import Dataset
from firstlight.data.stream import Masking, TokenStream
from firstlight.data.tokenizer import check_vocabulary, end_of_document_id, load_tokenizer
from firstlight.data.worker import Assignment
from firstlight.data.worker_reader import WorkerReader
from firstlight.layout.mesh import Layout
from firstlight.layout.stages import Stage, stages_of, stages_on
from firstlight.models.balancing import BiasBalancing
from firstlight.models.decoder import Decoder
from firstlight.models.family import build_model
from firstlight.observe.samples import write_samples
from firstlight.optim.averages import Averages
from firstlight.optim.loss_scale import DynamicLossScale, LossScale, NoLossScale
from firstlight.optim.optimizer import Optimizer, Progress, Surroundings
from firstlight.optim.qk_clip import QkClip
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
from firstlight.parallel.arithmetic import Arithmetic
from firstlight.parallel.attention_logits import AttentionLogits
from firstlight.parallel.device import (
    has_fused_adamw,
    require_memory_apart,
)
from firstlight.parallel.engine import Engine, PlainEngine, Work
from firstlight.parallel.group import sum_over_ranks
from firstlight.parallel.kernels import Circumstances, Kernels
from firstlight.parallel.losses import RankSums
from firstlight.parallel.pipelined_engine import PipelinedEngine
from firstlight.resilience.guard import Guard
from firstlight.train.avoided_samples import read_avoided
from firstlight.train.checkpointers import checkpointers
from firstlight.train.evaluate import Evaluation, EvaluationPlan, Evaluations, Evaluator, HeldOutSet, Portion
from firstlight.train.guarding import checks_of, faults_of, not_finite_of, pace_of
from firstlight.train.loop import Parts
from firstlight.train.place import Place
from firstlight.train.recording import measures_of, recorder_of, update_watch
from firstlight.train.rewinds import Rewinds
from firstlight.train.run_folder import DATA
from firstlight.train.samples import SamplePlan, SampleWriter, Tokens, Writing, prompt_tokens
from firstlight.train.sampling import Sampling
from firstlight.train.state import TrainState
from firstlight.train.stop_requests import stop_requests


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The data of a run, opened and checked before anything is built."""

    train: Dataset
    needs: TrainingNeeds
    train_fingerprint: str
    held_out: list[HeldOutSet]
    masking: Masking
    prompts: list[Tokens]
    """Of `monitor.samples`."""


def open_inputs(config: RunConfig) -> Inputs:
    """Open tokenizer and data sets. Raises InputError when one is missing, damaged, or does not fit the model."""
    check_vocabulary(config.data.tokenizer, config.model.vocab_size)
    end_of_document = None
    if config.data.train.mask_after_end_of_document:
        end_of_document = end_of_document_id(load_tokenizer(config.data.tokenizer), config.data.tokenizer, None)
    needs = needs_of(config)
    train = open_training_data(config.data, needs)
    return Inputs(
        train=train.dataset,
        needs=needs,
        train_fingerprint=train.fingerprint,
        held_out=open_held_out_sets(config),
        prompts=prompt_tokens(config),
        masking=Masking(end_of_document=end_of_document, separates_documents=config.data.train.documents == "separate"),
    )


def needs_of(config: RunConfig) -> TrainingNeeds:
    """What a run takes of its data."""
    stretches, phases = timeline_of(config).stretches, config.phases
    samples = [sum(one.samples for one in stretches if one.phase == phase) for phase in range(len(phases) + 1)]
    lengths = list(sequence_lengths(config).values())
    later = [
        PhaseNeeds(num_samples=samples[number], sequence_length=lengths[number], weights=phase.weights)
        for number, phase in enumerate(phases, start=1)
        if samples[number]
    ]
    return TrainingNeeds(
        num_samples=samples[0], later=tuple(later), seed=config.training.seed, vocab_size=config.model.vocab_size
    )


def open_held_out_sets(config: RunConfig) -> list[HeldOutSet]:
    """The held-out sets of `data.evaluate`, cut to the sequence lengths of the run."""
    return [
        HeldOutSet(
            name=name,
            datasets=tuple(
                CheckedDataset(open_held_out(one, length), name=str(one.path), vocab_size=config.model.vocab_size)
                for length in sequence_lengths(config).values()
            ),
            bytes_per_token=bytes_per_token(one.path),
        )
        for name, one in config.data.held_out.items()
    ]


def held_out_blends(config: RunConfig) -> dict[str, dict[str, float]]:
    """The shares of held-out sets in the blends of `data.evaluate`, by the names of both."""
    return {one.name: one.shares for one in config.data.evaluate if isinstance(one, HeldOutBlend)}


def held_out_masking(config: RunConfig) -> Masking:
    """Documents of held-out sets stand for themselves when those of training do."""
    return Masking(separates_documents=config.data.train.documents == "separate")


def assemble(config: RunConfig, inputs: Inputs, place: Place) -> tuple[Parts, TrainState]:
    """Build the run on this rank. Collective: every rank builds its part."""
    torch.use_deterministic_algorithms(config.training.deterministic)
    require_memory_apart(place.device, config.offload)
    layout = Layout.of(config.parallelism, place.world.size)
    model = _model(config, layout, place)
    progress = Progress()
    now = _now(config, progress)
    balancing = BiasBalancing(routers(*model.stages), now)
    logits = _attention_logits(config, layout, model, place.world.rank)
    loss_scale = loss_scale_of(config)
    work = replace(
        work_of(config, layout, balancing, place.device), now=now, loss_scale=lambda: loss_scale.value, logits=logits
    )
    engine = build_engine(config, model, work)
    averages = Averages(
        config.averages, parameter_names(*model.stages), buffer_names(*model.stages), lambda: progress.updates
    )
    asks_to_stop = stop_requests(place.folder.stop_request, stop_at_step=config.training.stop_at_step)
    guard = Guard(config.resilience, place.peers, asks_to_stop)
    known = read_avoided(place.folder.avoided_samples, place.folder.identity, place.peers)
    guard.num_rewinds = known.num_rewinds
    watch = update_watch(config, model.stages)
    around = replace(
        _surroundings(config, layout, place, now),
        before_update=watch.before_update,
        after_update=_in_turn(balancing.update, *_qk_clip(config, model, logits), averages.update),
        progress=progress,
        loss_scale=loss_scale,
    )
    state = TrainState(
        stages=model.stages,
        optimizer=Optimizer(parameter_names(*model.stages), config.optimizer, around),
        data=_stream(config, inputs, layout, place.world.rank, known.ranges),
        data_fingerprint=inputs.train_fingerprint,
        guard=guard,
        averages=averages,
        total_steps=config.training.steps,
        accept_data=place.accept_data if DATA in place.accepted else None,
    )
    measures = measures_of(config, place, layout, work.sums.last, optimizer=state.optimizer, watch=watch)
    kept = checkpointers(config, place, layout)
    heart = Heart(place.world.store_folder, rank=place.world.rank)
    parts = Parts(
        engine=engine,
        checkpointer=kept.on_disk,
        snapshots=kept.in_memory,
        heart=heart,
        faults=faults_of(config, place, model),
        guard=guard,
        checks=checks_of(config, layout, place, engine, model, kept.on_disk),
        not_finite=not_finite_of(config, place, engine, model),
        pace=pace_of(config, layout, place, model),
        rewinds=Rewinds(config.resilience.rewind, timeline_of(config), place, kept),
        recorder=recorder_of(config, place, measures),
        evaluator=_evaluations(config, inputs, place, engine=engine, stages=model.stages, heart=heart),
    )
    return parts, state


def _model(config: RunConfig, layout: Layout, place: Place) -> LaidOut:
    """This rank's part of the model, with the weights that the run starts from."""
    arithmetic = Arithmetic.of(config.training.precision, place.device)
    around = Circumstances(device=place.device, longest=max(sequence_lengths(config).values()))
    kernels = Kernels.of(config.kernels, config.model, layout, arithmetic, around)
    get_logger().info(kernels.describe())
    model = build_parallel(
        config.model,
        layout,
        keeping_of(config, layout),
        stages=stages_of_rank(config, layout, place.world.rank),
        device=place.device,
        seed=config.training.seed,
        arithmetic=arithmetic,
        build=kernels.in_what(build_model if place.own_model is None else place.own_model.build),
    )
    if config.model.from_hf is not None and not candidates(place.folder.checkpoints):
        get_logger().info(f"starting from the weights in {config.model.from_hf}")
        read_weights(config.model, config.model.from_hf, parameter_names(*model.stages) | buffer_names(*model.stages))
    return model


def keeping_of(config: RunConfig, layout: Layout) -> Keeping:
    """What becomes of activations and gradients."""
    return Keeping(
        recompute=config.recompute,
        offloaded=config.offload.activations,
        splits_backward=layout.pp > 1 and config.parallelism.pipeline.schedule in SPLITS_BACKWARD,
    )


def loss_scale_of(config: RunConfig) -> LossScale:
    """By what the loss is multiplied for gradients."""
    precision = config.training.precision
    return DynamicLossScale(precision) if isinstance(precision, Fp16Precision) else NoLossScale()


def work_of(config: RunConfig, layout: Layout, balancing: BiasBalancing, device: torch.device) -> Work:
    """How the run's engine works, without what changes from step to step."""
    return Work(
        micro_batch_size=config.training.micro_batch_size,
        arithmetic=Arithmetic.of(config.training.precision, device),
        sums=RankSums(layout=layout),
        balancing=balancing,
        attentions=attentions_of(config) if config.phases else (),
    )


def build_engine(config: RunConfig, model: LaidOut, work: Work) -> Engine:
    """The engine for a model that is laid out already."""
    if model.pipeline_group is None:
        (whole,) = model.stages
        return PlainEngine(whole, work)
    return PipelinedEngine(model, config.parallelism.pipeline.schedule, work)


def _attention_logits(config: RunConfig, layout: Layout, model: LaidOut, rank: int) -> AttentionLogits | None:
    """What measures them, where something asks for them."""
    is_wanted = config.optimizer.qk_clip is not None or config.monitor.watches_attention_logits
    return AttentionLogits(model.stages, layout, rank) if is_wanted else None


def _qk_clip(config: RunConfig, model: LaidOut, logits: AttentionLogits | None) -> list[Callable[[], None]]:
    """Clips by the logits of the step, where the configuration says so."""
    clip = config.optimizer.qk_clip
    if clip is None or logits is None:
        return []
    return [QkClip(parameter_names(*model.stages), config.model.attention, clip, lambda: logits.largest)]


def _surroundings(config: RunConfig, layout: Layout, place: Place, now: Now) -> Surroundings:
    """Of an optimizer, so far without what follows an update."""
    return Surroundings(
        learning_rate=number_at(learning_rate_of(config), timeline_of(config)),
        sum_over_ranks=sum_over_ranks,
        after_update=lambda: None,
        is_fused=has_fused_adamw(place.device),
        keeps_moments_in_host=config.offload.optimizer_state == "host",
        copies=copies_in(layout),
        num_heads=config.model.attention.num_attention_heads,
        now=now,
    )


def _in_turn(*acts: Callable[[], None]) -> Callable[[], None]:
    def act() -> None:
        for one in acts:
            one()

    return act


def stages_of_rank(config: RunConfig, layout: Layout, rank: int) -> list[Stage]:
    """The stages of the pipeline that `rank` has."""
    pipeline = config.parallelism.pipeline
    stages = stages_of(config.model, pipeline, layout.pp, config.data.train.sequence_length)
    return [stages[index] for index in stages_on(layout.coordinates(rank)["pp"], layout.pp, pipeline)]


def _now(config: RunConfig, progress: Progress) -> Now:
    """Scheduled numbers, for the update to come."""
    timeline = timeline_of(config)
    return lambda number: number_at(number, timeline)(progress.updates)


def _stream(config: RunConfig, inputs: Inputs, layout: Layout, rank: int, avoided: Ranges) -> TokenStream:
    return TokenStream(
        inputs.train,
        timeline=timeline_of(config),
        micro_batch_size=config.training.micro_batch_size,
        data_rank=layout.data_rank(rank),
        data_size=layout.data_size,
        masking=inputs.masking,
        reader=_reader(config, inputs),
        avoided=avoided,
    )


def _reader(config: RunConfig, inputs: Inputs) -> Reader:
    loader = config.data.loader
    if loader.workers:
        return WorkerReader(Assignment(config=config.data, needs=inputs.needs), loader.workers)
    return ThreadReader(inputs.train, loader.prefetch)


def _evaluations(
    config: RunConfig, inputs: Inputs, place: Place, *, engine: Engine, stages: list[Decoder], heart: Heart
) -> Evaluations:
    """What the model is asked for between steps: its held-out loss, and texts."""
    layout = Layout.of(config.parallelism, place.world.size)
    parts: list[Evaluation] = [
        Evaluator(engine, inputs.held_out, _evaluation_plan(config, layout), _portion(layout, place))
    ]
    if config.monitor.samples is not None:
        plan = _sample_plan(config, config.monitor.samples, layout, inputs.prompts)
        parts.append(SampleWriter(engine, stages, plan, _writing(layout, place, heart)))
    return Evaluations(parts)


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
        timeline=timeline_of(config),
        blends=held_out_blends(config),
    )


def _evaluation_batch(config: RunConfig, layout: Layout) -> int:
    """Sequences that a rank evaluates at once: one micro-batch, or as many as fill the pipeline in training."""
    training = config.training
    return training.micro_batch_size if layout.pp == 1 else final_batches(config)[0] // layout.data_size


def _sample_plan(config: RunConfig, samples: SamplesConfig, layout: Layout, prompts: list[Tokens]) -> SamplePlan:
    path = config.data.tokenizer
    return SamplePlan(
        every_steps=samples.every_steps,
        sampling=Sampling(**samples.model_dump(exclude={"prompts", "every_steps"})),
        prompts=prompts,
        end=end_of_document_id(load_tokenizer(path), path),
        rows=len(prompts) if layout.pp == 1 else _evaluation_batch(config, layout),
        timeline=timeline_of(config),
    )


def _writing(layout: Layout, place: Place, heart: Heart) -> Writing:
    """Of the ranks that read the same rows, and have the same head, the first ones tell what comes next."""
    rank, folder = place.world.rank, place.folder

    def keep(step: int, texts: Sequence[Tokens]) -> None:
        tokenizer = load_tokenizer(folder.tokenizer)
        write_samples(folder.path, step, [tokenizer.decode(text, skip_special_tokens=True) for text in texts])

    return Writing(
        peers=place.peers,
        tells=layout.data_rank(rank) == 0 and layout.coordinates(rank)["tp"] == 0,
        keep=keep if rank == 0 else lambda _step, _texts: None,
        phase=heart.phase,
    )
