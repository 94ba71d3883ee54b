"""Published runs as work that a plan can forecast: what their configurations say, and what their systems do.

The figures themselves are read from a table beside the repository; each run's source is named there.
"""

import csv
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.published.described import Described, description_of
from firstlight.config.model import ModelConfig, MultiTokenPrediction
from firstlight.config.pipeline import BalancedSplit, GivenSplit, PipelineConfig
from firstlight.config.source import read_source
from firstlight.layout.counts import flops_per_token
from firstlight.layout.mesh import Layout
from firstlight.plan.calibration import scaled
from firstlight.plan.hardware import Hardware, read_hardware
from firstlight.plan.work import Work

MODELS = Path(__file__).parent / "models.yaml"
TABLE = Path(__file__).parents[3] / "shared" / "reference" / "published_runs.csv"


@dataclass(frozen=True, kw_only=True)
class Published:
    """A run of the table."""

    id: str
    row: dict[str, str]
    described: Described
    section: ModelConfig | None
    """None where the table names no model, or one that is not described."""

    @property
    def model(self) -> ModelConfig | None:
        """As it was trained."""
        if self.section is None:
            return None
        return self._with_prediction(self.section, is_ahead=self.described.predicts_ahead)

    @staticmethod
    def _with_prediction(section: ModelConfig, *, is_ahead: bool) -> ModelConfig:
        ahead = MultiTokenPrediction() if is_ahead else None
        return section.model_copy(update={"multi_token_prediction": ahead})

    def number(self, name: str) -> float | None:
        """A figure of the table."""
        try:
            return float(self.row[name])
        except ValueError:
            return None

    @property
    def flops_per_token(self) -> float | None:
        """In the convention of its source."""
        model, length = self.model, self.number("seq")
        if model is None or length is None:
            return None
        if self.described.counts_ahead is not None:
            model = self._with_prediction(model, is_ahead=self.described.counts_ahead)
        return flops_per_token(model, int(length), self.described.convention)

    @property
    def step_seconds(self) -> float | None:
        """As published, or from tokens or FLOPs a second."""
        sequences, length, devices = (self.number(name) for name in ("gbs", "seq", "n_gpu"))
        if (step := self.number("step_s")) is not None and "chunkpair" not in self.id:
            return step
        if sequences is None or length is None or devices is None:
            return None
        tokens = sequences * length
        if (speed := self.number("tok_s_gpu")) is not None:
            return tokens / speed / devices
        if (flops := self.number("tflops_gpu")) is not None and self.flops_per_token is not None:
            return tokens * self.flops_per_token / (flops * 1e12 * devices)
        return None

    @property
    def flops_error(self) -> float | None:
        """Of the FLOPs of a token against the published TFLOP/s or utilisation, where time is published beside them."""
        flops, devices, share, peak = (self.number(name) for name in ("tflops_gpu", "n_gpu", "mfu", "peak_bf16"))
        if flops is None and share is not None and peak is not None:
            flops = share * peak
        if flops is None or self.flops_per_token is None or devices is None:
            return None
        speed = self.number("tok_s_gpu")
        if speed is None and (step := self.number("step_s")) is not None:
            sequences, length = self.number("gbs"), self.number("seq")
            speed = sequences * length / step / devices if sequences and length else None
        return None if speed is None else speed * self.flops_per_token / (flops * 1e12) - 1

    @property
    def counts_flops(self) -> bool:
        """Whether its FLOPs are compared."""
        return self.flops_error is not None and not (self.described.doubt or self.described.doubted_flops)

    @property
    def hardware(self) -> Hardware:
        """A profile, changed where the source names another memory, power or kernel."""
        found = hardware_of(self.described.hardware)
        return _with_attention(found, 0.36, 0.28) if self.described.attends_by_torch else found

    @property
    def work(self) -> Work | None:
        """None where a part of the layout is not published."""
        model, degrees = self.model, self._degrees()
        if model is None or degrees is None:
            return None
        layout, sequences = degrees
        size = self.described.micro_batch_size or int(self.number("mbs") or 1)
        chunks = self.described.stages_per_rank or int(self.number("VP") or 1)
        precision = "fp8" if "FP8" in self.row["precision"].upper() else self.described.practice.precision
        return Work(
            model=model,
            layout=layout,
            pipeline=self._pipeline(model, layout, chunks),
            sequence_length=int(self.number("seq") or 0),
            micro_batch_size=size,
            micro_batches=max(1, sequences // layout.data_size // size),
            recompute=self.described.recompute,
            practice=replace(self.described.practice, precision=precision),
        )

    def _degrees(self) -> tuple[Layout, int] | None:
        needed = [self.number(name) for name in ("n_gpu", "seq", "gbs")]
        if None in needed:
            return None
        devices, sequences = int(needed[0] or 0), int(needed[2] or 0)
        tp, pp, cp, ep = (int(self.number(name) or 1) for name in ("TP", "PP", "CP", "EP"))
        if "official" in self.id:
            # DualPipe over 16 ranks is DualPipeV over 8, twice.
            pp = pp // 2
        layout = Layout(
            tp=tp,
            pp=pp,
            cp=cp,
            ep=self.described.expert_parallel or ep,
            dp_shard=devices // (tp * pp * cp),
            sharded="all" if self.described.shards_all else "optimizer",
        )
        return layout, sequences

    def _pipeline(self, model: ModelConfig, layout: Layout, chunks: int) -> PipelineConfig:
        count, layers = layout.pp * chunks, model.num_hidden_layers
        split: BalancedSplit | GivenSplit
        split = BalancedSplit() if layers % count else GivenSplit(layers=(layers // count,) * count)
        if layers == count - 2:
            # Megatron-LM may give embedding and head stages of their own.
            split = GivenSplit(layers=(0, *(1 for _ in range(layers)), 0))
        if "official" in self.id:
            return PipelineConfig(schedule="dualpipe_v")
        if chunks == 1 or layout.pp == 1:
            return PipelineConfig(schedule="1f1b", split=split)
        return PipelineConfig(schedule="interleaved_1f1b", stages_per_rank=chunks, split=split)


_OF_500_WATTS = 0.8
"""Of the speed at 700 W; power falls faster than clocks."""
_MODELS_BY_NAME = {"Nemotron-4 340B": "nemotron340b", "Llama-2 7B": "llama2_7b", "Llama-2 13B": "llama2_13b"}


def models() -> dict[str, ModelConfig]:
    """By the names that the table has for them."""
    return {name: ModelConfig.model_validate(section) for name, section in read_source(MODELS).values.items()}


def hardware_of(name: str) -> Hardware:
    """A profile; `h100-500w` is the one of torchtitan's reports, with slower memory and less power."""
    if name != "h100-500w":
        return read_hardware(name)
    base = read_hardware("h100")
    memory = base.memory_bandwidth.model_copy(update={"value": 2.4e12})
    slower = scaled(base, _OF_500_WATTS, "500 of 700 W")
    return slower.model_copy(update={"memory_bandwidth": memory, "name": name})


def _with_attention(hardware: Hardware, forward: float, backward: float) -> Hardware:
    """As a share of what the profile's kernels reach on an H100, whose efficiency for attention this is."""
    old = hardware.efficiency
    share = old.products["bf16"].value / read_hardware("h100").efficiency.products["bf16"].value
    changed = {
        "attention_forward": old.attention_forward.model_copy(update={"value": forward * share}),
        "attention_backward": old.attention_backward.model_copy(update={"value": backward * share}),
    }
    return hardware.model_copy(update={"efficiency": old.model_copy(update=changed)})


def published_runs(table: Path = TABLE) -> list[Published]:
    """Every row of the table, in its order."""
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    known = models()
    names = [row["arch"] or _MODELS_BY_NAME.get(row["model"].split(" (")[0], "") for row in rows]
    return [
        Published(id=row["id"], row=row, described=description_of(row["id"]), section=known.get(name))
        for row, name in zip(rows, names, strict=True)
    ]
