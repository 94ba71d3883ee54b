"""Writes the table of layouts of DeepSeek-V3 into docs/parallelism.md, from the arithmetic of `layout/`."""

from collections.abc import Iterable
from pathlib import Path

from firstlight.config.load import load
from firstlight.config.model import ModelConfig
from firstlight.layout.communication import StepShape, Traffic, step_traffic
from firstlight.layout.memory import largest_gathered_unit, state_of_rank
from firstlight.layout.mesh import Layout

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "parallelism.md"
BEGIN, END = "<!-- layouts: written by scripts/write_layouts.py -->\n", "<!-- end of layouts -->\n"
SEQUENCES = 1024
LENGTH = 4096
LAYOUTS = (
    Layout(dp_shard=8),
    Layout(dp_shard=8, ep=8),
    Layout(tp=8, ep=8),
    Layout(dp_shard=64),
    Layout(dp_shard=64, ep=64),
    Layout(dp_shard=8, tp=8, ep=64),
    Layout(dp_shard=1024),
    Layout(dp_shard=1024, ep=64),
    Layout(dp_replicate=16, dp_shard=64, ep=64),
    Layout(dp_shard=128, tp=8, ep=64),
)
NAMES = {"dp_replicate": "data_parallel_replicate", "dp_shard": "data_parallel_shard", "tp": "tensor_parallel"}
NAMES |= {"ep": "expert_parallel", "etp": "expert_tensor_parallel"}
HEAD = (
    "| ranks | layout | state | gathered | micro-batches | parameters | sequence | rows | calls |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
)
STATE, ROWS, SEQUENCE = ("parameters", "experts", "gradients"), ("rows", "counts of rows"), ("sequence", "vocabulary")


def table() -> str:
    """A row for each layout."""
    model = load(ROOT / "examples" / "deepseek-v3-4k.yaml").config.model
    return HEAD + "".join(row(model, layout) for layout in LAYOUTS)


def row(model: ModelConfig, layout: Layout) -> str:
    """Memory of the first rank and its traffic in a step, in GB."""
    micro_batches = SEQUENCES // layout.data_size
    step = StepShape(sequence_length=LENGTH, micro_batch_size=1, micro_batches=micro_batches)
    traffic = step_traffic(model, layout, step)
    degrees = [f"{name} {layout.degrees()[axis]}" for axis, name in NAMES.items() if layout.degrees()[axis] > 1]
    cells = [
        f"{layout.world_size:,}",
        ", ".join(degrees),
        gigabytes(state_of_rank(model, layout, 0).total),
        gigabytes(2 * largest_gathered_unit(model, layout)),
        f"{micro_batches:,}",
        *(gigabytes(total(traffic, names)) for names in (STATE, SEQUENCE, ROWS)),
        f"{sum(one.calls for one in traffic):,}",
    ]
    return f"| {' | '.join(cells)} |\n"


def total(traffic: Iterable[Traffic], names: tuple[str, ...]) -> int:
    """Bytes of what begins with one of the names."""
    return sum(one.bytes for one in traffic if one.what.startswith(names))


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
