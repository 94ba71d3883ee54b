"""Work on a small model, for tests of plans."""

from typing import Any

from firstlight.config.pipeline import PipelineConfig
from firstlight.layout.mesh import Layout
from firstlight.plan.work import Work
from tests.unit.models.tiny_model import deepseek


def small_work(layout: Layout | None = None, pipeline: PipelineConfig | None = None, **changes: Any) -> Work:
    """A tiny DeepSeek-V3 with multi-token prediction; the changes go over the fields of `Work`."""
    values: dict[str, Any] = {
        "model": deepseek(multi_token_prediction={}, num_hidden_layers=8),
        "layout": layout or Layout(dp_shard=2),
        "pipeline": pipeline or PipelineConfig(),
        "sequence_length": 64,
        "micro_batch_size": 2,
        "micro_batches": 8,
        **changes,
    }
    return Work(**values)
