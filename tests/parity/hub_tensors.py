"""Tensors of transformers' modules under the hub's names, and from there into our models."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from firstlight.convert.tensor_layout import to_ours
from firstlight.models.decoder import Decoder
from firstlight.models.family import family_of
from firstlight.models.names import NameTable


def saved_tensors(folder: Path) -> dict[str, Tensor]:
    """What the safetensors files of a folder hold."""
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def hub_names(tensors: Mapping[str, Tensor], *, family: str = "deepseek_v3") -> dict[str, Tensor]:
    """Tensors of a transformers 5 model (weights, or gradients of theirs) as the hub has them: experts one by one.

    In memory, experts are stacked, with gate and up projection in one tensor, gate first. gpt-oss is so on the hub.
    """
    if family == "gpt_oss":
        return dict(tensors)
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        prefix, _, kind = name.rpartition(".experts.")
        if kind == "gate_up_proj":
            gate_efd, up_efd = tensor.chunk(2, dim=1)
            out |= _one_by_one(prefix, "gate_proj", gate_efd) | _one_by_one(prefix, "up_proj", up_efd)
        elif kind == "down_proj":
            out |= _one_by_one(prefix, "down_proj", tensor)
        else:
            out[name] = tensor
    return {_as_mixtral(name): tensor for name, tensor in out.items()} if family == "mixtral" else out


def _as_mixtral(name: str) -> str:
    if ".mlp." not in name:
        return name
    name = name.replace(".mlp.", ".block_sparse_moe.")
    for kind, short in {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}.items():
        name = name.replace(f".{kind}.", f".{short}.")
    return name


def mtp_hub_names(tensors: Mapping[str, Tensor], *, num_hidden_layers: int) -> dict[str, Tensor]:
    """Tensors of a transformers MtpModel as the hub has them: layers after the last one of the model."""
    out: dict[str, Tensor] = {}
    for name, tensor in hub_names(tensors).items():
        if not name.startswith("layers."):
            continue  # embedding and head are the main model's
        _, depth, rest = name.split(".", 2)
        rest = rest.removeprefix("mtp_block.").replace("post_norm.", "shared_head.norm.")
        out[f"model.layers.{num_hidden_layers + int(depth)}.{rest}"] = tensor
    return out


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """The gradients under the parameters' names; every parameter must have one."""
    missing = [name for name, parameter in module.named_parameters() if parameter.grad is None]
    assert not missing, f"no gradient: {missing}"
    return {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}


def ours_from_hub(names: NameTable, ours: str, hub: Mapping[str, Tensor]) -> Tensor:
    """Our tensor `ours` put together from the hub's."""
    entry = names.entry(ours)
    # What the hub joins is of equal size.
    rows = hub[entry.theirs[0]].shape[0] // len(entry.ours)
    parts = to_ours(entry, [hub[theirs] for theirs in entry.theirs], [(rows,)] * len(entry.ours))
    return parts[entry.ours.index(ours)]


def load_from_hub(model: Decoder, hub: Mapping[str, Tensor]) -> set[str]:
    """Fill parameters and buffers; the hub names that were used."""
    family, used = family_of(model.config), set()
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    for entry in family.tensors(model.config):
        shapes = [tensors[name].shape for name in entry.ours]
        parts = to_ours(entry, [hub[theirs] for theirs in entry.theirs], shapes)
        with torch.no_grad():
            for ours, part in zip(entry.ours, parts, strict=True):
                tensors.pop(ours).copy_(part)
        used |= set(entry.theirs)
    assert not tensors, f"not among the family's tensors: {list(tensors)}"
    return used


def _one_by_one(prefix: str, kind: str, tensor_eoi: Tensor) -> dict[str, Tensor]:
    return {f"{prefix}.experts.{expert}.{kind}.weight": one for expert, one in enumerate(tensor_eoi)}
