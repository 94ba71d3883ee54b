"""A Hugging Face folder's weights into a model, tensor by tensor: never more of it in memory than one entry."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from firstlight.base.log import get_logger
from firstlight.config.model import ModelConfig
from firstlight.convert.fp8_blocks import SCALE_SUFFIX
from firstlight.convert.hub_folder import HubFolder
from firstlight.convert.named_weights import NamedWeights
from firstlight.models.family import family_of


def read_weights(config: ModelConfig, folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fill `tensors`, parameters and buffers by our names, plain or sharded, all or some, from a Hugging Face folder.

    Each rank keeps what it holds. Raises InputError that names all tensors that are missing, of another shape or dtype,
    or not of this model, before anything is filled; and when a second copy of a tensor differs from the first.
    """
    weights = named_weights(config, folder)
    # A stage of a pipeline has a part of the tensors; the folder has to have all of them.
    weights.require_match(family_of(config).shapes(config))
    weights.fill(tensors)
    weights.require_equal_copies()


def named_weights(config: ModelConfig, folder: Path) -> NamedWeights:
    """The folder's tensors and their names in the hub's table. Raises InputError when they cannot be read."""
    source = HubFolder(folder)
    table = family_of(config).names(config)
    if config.tie_word_embeddings:
        table = replace(table, copies={**table.copies, "lm_head.weight": "embedding.weight"})
    others = {name for name in source.tensors if name.endswith(("inv_freq", SCALE_SUFFIX))}
    ahead = {name for name in source.tensors if _layer_of(name) >= config.num_hidden_layers} - others
    if ahead and config.num_mtp_layers == 0:
        get_logger().warning(f"{len(ahead)} tensors of layers for multi-token prediction are left out of the model")
        others |= ahead
    return NamedWeights(source=source, table=table, others=others)


def _layer_of(name: str) -> int:
    parts = name.split(".")
    return int(parts[2]) if parts[:2] == ["model", "layers"] and len(parts) > 2 and parts[2].isdigit() else -1
