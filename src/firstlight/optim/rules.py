"""Which parameters an optimizer updates by which rules: a table of the kinds, to which one's own is added."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from firstlight.config.optimizer import AdamWConfig, MuonConfig, OptimizerSection, is_matrix
from firstlight.optim.adamw import AdamW
from firstlight.optim.muon import Muon
from firstlight.optim.rule import Keeping, Member, UpdateRule


@dataclass(frozen=True, kw_only=True)
class Given:
    """What rules are built of: parameters with their ratios, how moments are kept, and the heads of an attention."""

    members: Sequence[Member]
    keeping: Keeping
    num_heads: int


def _adamw(config: AdamWConfig, given: Given) -> list[UpdateRule]:
    return [AdamW(given.members, config, given.keeping)]


def _muon(config: MuonConfig, given: Given) -> list[UpdateRule]:
    of_muon = [config.orthogonalises(member.name, member.parameter.shape) for member in given.members]
    matrices, rest = (
        [member for member, is_its in zip(given.members, of_muon, strict=True) if is_its is wanted]
        for wanted in (True, False)
    )
    rules: list[UpdateRule] = []
    if matrices:
        rules.append(Muon(matrices, config, given.keeping, given.num_heads))
    if rest:
        rules.append(AdamW(rest, config, given.keeping))
    return rules


BUILDERS: Mapping[type[OptimizerSection], Callable[[Any, Given], list[UpdateRule]]] = {
    AdamWConfig: _adamw,
    MuonConfig: _muon,
}
"""By the section of the configuration; the first argument is one of that class."""


def members_of(parameters: Mapping[str, nn.Parameter], config: OptimizerSection) -> list[Member]:
    """The parameters with the ratios that their groups give them."""
    members = []
    for name, parameter in parameters.items():
        group = next((group for group in config.groups if fnmatchcase(name, group.pattern)), None)
        decay = None if group is None else group.weight_decay_ratio
        if decay is None:
            decay = 1.0 if is_matrix(name, parameter.shape) else 0.0
        rate = 1.0 if group is None else group.learning_rate_ratio
        members.append(Member(name=name, parameter=parameter, learning_rate_ratio=rate, weight_decay_ratio=decay))
    return members
