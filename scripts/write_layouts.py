"""Writes the table of layouts of DeepSeek-V3 into docs/parallelism.md, from the arithmetic of `layout/`."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from firstlight.config.load import load
from firstlight.config.model import ModelConfig
from firstlight.config.optimizer import AdamWConfig
from firstlight.config.pipeline import PipelineConfig, ScheduleName
from firstlight.layout.communication import step_traffic
from firstlight.layout.memory import Kept, Units, state_of_rank, units_of
from firstlight.layout.mesh import Layout
from firstlight.layout.stages import Stage, stages_of, stages_on
from firstlight.layout.traffic import StepShape, Traffic

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "parallelism.md"
BEGIN, END = "<!-- layouts: written by scripts/write_layouts.py -->\n", "<!-- end of layouts -->\n"
SEQUENCES = 15_360
LENGTH = 4096


@dataclass(frozen=True)
class Arranged:
    """A layout, and the schedule of its pipeline."""

    layout: Layout
    schedule: ScheduleName = "1f1b"

    def stages_at(self, place: int, model: ModelConfig) -> list[Stage]:
        """Those of a place of the pipeline."""
        pipeline, degree = PipelineConfig(schedule=self.schedule), self.layout.pp
        stages = stages_of(model, pipeline, degree, LENGTH)
        return [stages[index] for index in stages_on(place, degree, pipeline)]

    def describe(self) -> str:
        """As a configuration says it."""
        degrees = self.layout.degrees()
        words = [f"{name} {degrees[axis]}" for axis, name in NAMES.items() if degrees[axis] > 1]
        if self.layout.cp > 1:
            words.append("all_to_all" if self.layout.cp_heads == self.layout.cp else "ring")
        words += [f"sharded {self.layout.sharded}"] if self.layout.sharded != "all" else []
        words += [self.schedule] if self.layout.pp > 1 else []
        return ", ".join(words)


LAYOUTS = (
    Arranged(Layout(dp_shard=8)),
    Arranged(Layout(dp_shard=8, ep=8)),
    Arranged(Layout(tp=8, ep=8)),
    Arranged(Layout(dp_shard=64)),
    Arranged(Layout(dp_shard=64, ep=64)),
    Arranged(Layout(dp_shard=8, tp=8, ep=64)),
    Arranged(Layout(pp=8, dp_shard=8, ep=8), "1f1b"),
    Arranged(Layout(pp=8, dp_shard=8, ep=8), "dualpipe_v"),
    Arranged(Layout(pp=8, tp=8, ep=8), "dualpipe_v"),
    Arranged(Layout(dp_shard=1024)),
    Arranged(Layout(dp_shard=1024, ep=64)),
    Arranged(Layout(dp_replicate=16, dp_shard=64, ep=64)),
    Arranged(Layout(dp_shard=128, tp=8, ep=64)),
    Arranged(Layout(pp=16, dp_shard=64, ep=64), "dualpipe_v"),
    Arranged(Layout(pp=16, dp_shard=64, ep=64, sharded="optimizer"), "dualpipe_v"),
    Arranged(Layout(pp=16, dp_shard=8, tp=8, ep=64), "dualpipe_v"),
    Arranged(Layout(pp=16, dp_shard=16, cp=4, ep=64), "dualpipe_v"),
    Arranged(Layout(pp=16, dp_shard=16, cp=4, cp_heads=4, ep=64), "dualpipe_v"),
)
NAMES = {
    "pp": "pipeline_parallel",
    "dp_replicate": "data_parallel_replicate",
    "dp_shard": "data_parallel_shard",
    "cp": "context_parallel",
    "tp": "tensor_parallel",
    "ep": "expert_parallel",
    "etp": "expert_tensor_parallel",
}
HEAD = (
    "| ranks | layout | state | whole | gathered | micro-batches | parameters | sequence | rows | stream | calls |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
)
COLUMNS = (("shard", "edp", "dp_replicate"), ("tp", "ring", "heads"), ("ep",), ("pp",))
"""The axes of each column of traffic."""

_BYTES = 4
"""Of a number."""


def table() -> str:
    """A row for each layout."""
    model = load(ROOT / "examples" / "deepseek-v3-4k.yaml").config.model
    return HEAD + "".join(row(model, arranged) for arranged in LAYOUTS)


def row(model: ModelConfig, arranged: Arranged) -> str:
    """The most of each kind that a place of the pipeline has: memory of its first rank and its traffic in a step, in
    GB."""
    layout = arranged.layout
    micro_batches = SEQUENCES // layout.data_size
    step = StepShape(sequence_length=LENGTH, micro_batch_size=1, micro_batches=micro_batches)
    places = [arranged.stages_at(place, model) for place in range(layout.pp)]
    kept = Kept(optimizer=AdamWConfig(learning_rate=1))
    states = [
        state_of_rank(model, layout, place * layout.stage_size, here, kept=kept) for place, here in enumerate(places)
    ]
    units = [[units_of(model, layout, stage) for stage in here] for here in places]
    stages = [one for here in units for one in here if one.divided]
    traffic = [step_traffic(model, layout, step, here) for here in places]
    cells = [
        f"{layout.world_size:,}",
        arranged.describe(),
        gigabytes(max(state.total for state in states)),
        gigabytes(max(whole_bytes(layout, here) for here in units)),
        gigabytes(2 * _BYTES * max((max(one.call, one.roots) for one in stages), default=0)),
        f"{micro_batches:,}",
        *(gigabytes(max(total(one, axes) for one in traffic)) for axes in COLUMNS),
        f"{max(sum(one.calls for one in calls) for calls in traffic):,}",
    ]
    return f"| {' | '.join(cells)} |\n"


def whole_bytes(layout: Layout, units: Iterable[Units]) -> int:
    """Of what a rank has whole from one micro-batch to the next: gathered parameters, and sums of gradients."""
    parameters = layout.pp > 1 or layout.sharded != "all"
    sums = layout.pp > 1 or layout.sharded == "optimizer"
    return sum(one.whole for one in units) * _BYTES * (parameters + sums)


def total(traffic: Iterable[Traffic], axes: tuple[str, ...]) -> int:
    """Bytes of what goes over one of the axes."""
    return sum(one.bytes for one in traffic if one.axis in axes)


def gigabytes(size: int) -> str:
    """With three digits."""
    number = size / 1e9
    return "-" if size == 0 else f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def page(text: str) -> str:
    """The page with the table of today."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


if __name__ == "__main__":
    TARGET.write_text(page(TARGET.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {TARGET.relative_to(ROOT)}")
