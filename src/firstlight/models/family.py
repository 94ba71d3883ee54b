"""The table of families."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from firstlight.base.errors import InputError
from firstlight.config.model import ModelConfig
from firstlight.layout.stages import Stage
from firstlight.models.decoder import Decoder
from firstlight.models.deepseek_v2.model import DEEPSEEK_V2
from firstlight.models.deepseek_v3.model import DEEPSEEK_V3
from firstlight.models.glm4.model import GLM4
from firstlight.models.glm4_moe.model import GLM4_MOE
from firstlight.models.gpt_oss.model import GPT_OSS
from firstlight.models.llama.model import LLAMA
from firstlight.models.mistral.model import MISTRAL
from firstlight.models.mixtral.model import MIXTRAL
from firstlight.models.model_family import ModelFamily
from firstlight.models.qwen2.model import QWEN2
from firstlight.models.qwen3.model import QWEN3
from firstlight.models.qwen3_moe.model import QWEN3_MOE

FAMILIES: Mapping[str, ModelFamily] = {
    family.name: family
    for family in (
        DEEPSEEK_V2,
        DEEPSEEK_V3,
        GLM4,
        GLM4_MOE,
        GPT_OSS,
        LLAMA,
        MISTRAL,
        MIXTRAL,
        QWEN2,
        QWEN3,
        QWEN3_MOE,
    )
}


Builder = Callable[[ModelConfig, Stage | None], Decoder]
"""What makes a decoder, whole or of a stage, with uninitialised parameters."""


def build_model(config: ModelConfig, stage: Stage | None = None) -> Decoder:
    """The decoder of the family that `config` names."""
    return family_of(config).build(config, stage)


def family_of(config: ModelConfig) -> ModelFamily:
    """The family that `config` names."""
    return FAMILIES[config.family]


def family_of_config_json(values: Mapping[str, Any]) -> ModelFamily:
    """The family that Hugging Face's `model_type` names. Raises InputError when there is none."""
    model_type = values.get("model_type")
    for family in FAMILIES.values():
        if model_type in family.model_types:
            return family
    known = sorted(name for family in FAMILIES.values() for name in family.model_types)
    raise InputError(f"config.json: model_type = {model_type!r} is not known; known are {', '.join(known)}")


def units_of(model: nn.Module) -> list[nn.Module]:
    """The parts that are sharded, recomputed or compiled as one: the decoder's layers and its MTP layers."""
    assert isinstance(model, Decoder)
    return [*model.layers.values(), *model.mtp]
