"""The whole table: which rows a generation has, by section."""

from collections.abc import Mapping

from firstlight.compat import data_rows, parallel_rows, recipe_rows, state_rows
from firstlight.compat.model_rows import MODEL_ROWS
from firstlight.compat.old_file import Generation
from firstlight.compat.router_rows import MOE_CONFIG_ROWS, ROUTER_ROWS
from firstlight.compat.row import Rows, ignored, under
from firstlight.compat.runtime_rows import (
    CONTEXT_ROWS,
    GENERAL_ROWS,
    LEGACY_TYPE_ROWS,
    MODEL_ARCH_ROWS,
    PYNATIVE_WATCH_ROWS,
    TRAINER_ROWS,
    WATCH_ROWS,
)

_GRAPH: Rows = (
    *GENERAL_ROWS,
    *state_rows.LOAD_ROWS,
    *WATCH_ROWS,
    *under("trainer", TRAINER_ROWS),
    *under("runner_config", recipe_rows.RUNNER_ROWS),
    *under("optimizer", recipe_rows.OPTIMIZER_ROWS),
    *under("lr_schedule", recipe_rows.SCHEDULE_ROWS),
    *under("grouped_lr_schedule.default", recipe_rows.SCHEDULE_ROWS),
    *under("grouped_lr_schedule", recipe_rows.GROUPED_ROWS),
    *under("train_dataset", data_rows.DATASET_ROWS),
    *under("context", CONTEXT_ROWS),
    *under("parallel", parallel_rows.PARALLEL_ROWS),
    *under("parallel_config", parallel_rows.DEGREE_ROWS),
    *under("recompute_config", parallel_rows.RECOMPUTE_ROWS),
    *under("swap_config", parallel_rows.SWAP_ROWS),
    *under("callbacks", state_rows.CALLBACK_ROWS),
    *under("runner_wrapper", recipe_rows.WRAPPER_ROWS),
    *under("checkpoint", state_rows.GRAPH_CHECKPOINT_ROWS),
    *under("model", MODEL_ARCH_ROWS),
    *under(
        "model.model_config",
        (*MODEL_ROWS, *ROUTER_ROWS, *LEGACY_TYPE_ROWS, *parallel_rows.DEGREE_ROWS, *parallel_rows.RECOMPUTE_ROWS),
    ),
)

TABLE: Mapping[Generation, Rows] = {
    Generation.LEGACY: (*_GRAPH, *under("moe_config", MOE_CONFIG_ROWS)),
    Generation.CORE: (
        *_GRAPH,
        *ignored("MindFormers does not read it with use_legacy: False; its keys are in model_config", "moe_config.**"),
    ),
    Generation.PYNATIVE: (
        *PYNATIVE_WATCH_ROWS,
        *under("training", recipe_rows.PYNATIVE_TRAINING_ROWS),
        *under("optimizer", recipe_rows.OPTIMIZER_ROWS),
        *under("lr_scheduler", recipe_rows.SCHEDULE_ROWS),
        *under("train_dataset", data_rows.PYNATIVE_DATASET_ROWS),
        *under("parallelism", parallel_rows.PYNATIVE_PARALLELISM_ROWS),
        *under("recompute", parallel_rows.PYNATIVE_RECOMPUTE_ROWS),
        *under("recompute_comm", parallel_rows.PYNATIVE_RECOMPUTE_COMM_ROWS),
        *under("swap", parallel_rows.PYNATIVE_SWAP_ROWS),
        *under("callbacks", state_rows.CALLBACK_ROWS),
        *under("checkpoint", state_rows.PYNATIVE_CHECKPOINT_ROWS),
        *under("context", CONTEXT_ROWS),
        *under("model", (*MODEL_ROWS, *ROUTER_ROWS)),
    ),
}
"""One row for each key; a test holds that no key has two."""

INFERENCE_MODES = ("predict", "eval", "export", "predict_with_train_model")
