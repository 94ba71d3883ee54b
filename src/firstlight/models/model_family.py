"""What a model family is: choices of the one decoder, its tensors' names, and its config.json."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from firstlight.base.errors import InputError
from firstlight.config.families import FamilyName, refused_choices, shown
from firstlight.config.model import ModelConfig
from firstlight.layout.stages import Stage
from firstlight.models.decoder import Decoder
from firstlight.models.hub_config import ConfigRow, Json, read_config, unchanged, write_config
from firstlight.models.hub_rows import hub_table
from firstlight.models.names import Entry, NameTable, Row


@dataclass(frozen=True, kw_only=True)
class ModelFamily:
    """A family of decoders and what Hugging Face calls it. `model_types` are those of config.json, ours first.

    `given` are keys of the model section that the family settles; `settle` has the last word on a section read from a
    config.json.
    """

    name: FamilyName
    architecture: str
    model_types: tuple[str, ...]
    given: Mapping[str, Any]
    config_rows: Sequence[ConfigRow]
    block: Sequence[Row]
    """Hugging Face's names for the tensors of one decoder layer."""
    settle: Callable[[dict[str, Any]], dict[str, Any]] = unchanged

    def build(self, config: ModelConfig, stage: Stage | None = None) -> Decoder:
        """The module with uninitialised parameters; build it under `torch.device("meta")` to hold nothing.

        A stage of a pipeline has only its part of the layers.
        """
        return Decoder(config, stage)

    def names(self, config: ModelConfig) -> NameTable:
        """Hugging Face's tensor names for a configuration."""
        return hub_table(config, self.block)

    def tensors(self, config: ModelConfig) -> Iterator[Entry]:
        """Every tensor of the model, parameters and buffers, with Hugging Face's names and layout."""
        return self.names(config).entries(self.shapes(config))

    def shapes(self, config: ModelConfig) -> dict[str, Tensor]:
        """Every tensor of the model, parameters and buffers, without memory."""
        with torch.device("meta"):
            model = self.build(config)
        return dict(model.named_parameters()) | dict(model.named_buffers())

    def config_json(self, config: ModelConfig) -> dict[str, Any]:
        """The content of Hugging Face's config.json, without dtype and token ids."""
        head = {"architectures": [self.architecture], "model_type": self.model_types[0]}
        return {**head, **write_config(config, self.config_rows)}

    def read_config_json(self, values: Json) -> ModelConfig:
        """The model section that a config.json of this family describes. Raises InputError with all that is refused."""
        found = self.settle(read_config(values, self.config_rows, self.given))
        try:
            model = ModelConfig.model_validate({"family": self.name, **found})
        except ValidationError as error:
            lines = [f"  {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
            raise InputError("config.json gives a model section with faults:\n" + "\n".join(lines)) from None
        refused = [f"  {one.path} = {shown(one.value)}" for one in refused_choices(model)]
        if refused:
            raise InputError(f"config.json asks for what {self.name} is not made of:\n" + "\n".join(refused))
        return model
