"""What a device and its network can do: profiles in YAML, in which every number says where it is from."""

from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationError

from firstlight.base.errors import InputError
from firstlight.config.section import Section
from firstlight.config.source import read_source

Precision = Literal["fp32", "bf16", "fp8"]
Basis = Literal["spec", "measured", "guess"]


class Figure(Section):
    """A number: its maker's (`spec`), from a run that is named (`measured`), or an estimate (`guess`)."""

    value: Annotated[float, Field(ge=0)]
    basis: Basis
    source: str


class Link(Section):
    """What connects a device with those of its node, or with other nodes."""

    bandwidth: Figure
    """Bytes a second in each direction, of one device."""
    latency_seconds: Figure
    """Of one message."""
    efficiency: Figure
    """The share of the bandwidth that gathers, scatters and sums reach."""
    exchange_efficiency: Figure
    """The share that an all-to-all reaches."""


class Links(Section):
    """Both kinds of links."""

    node: Link
    cluster: Link


class Efficiency(Section):
    """Shares of a peak that are reached."""

    products: dict[Precision, Figure]
    """Large matrix products, of the peak of their precision."""
    attention_forward: Figure
    """Of the peak in bf16."""
    attention_backward: Figure
    memory: Figure
    """Of the memory's bandwidth."""


class Failures(Section):
    """What interrupts a run, and what that costs."""

    node_hours: Figure
    """Between two failures of a node."""
    restart_seconds: Figure
    """From a failure to the next step, without the steps that are lost."""
    checkpoint_seconds: Figure
    """For which a save holds training up."""


class Kernels(Section):
    """What the runtime does on this kind of device that decides memory."""

    sum_bytes: Literal[4, 8] = 4
    """Of a number in sums of gradients."""
    pads_values: bool = False
    """Whether attention wants values as wide as keys."""
    keeps_softmax: bool = False
    """Whether attention in fp32 of short sequences keeps its softmax."""


class Hardware(Section):
    """A kind of device in its nodes and cluster."""

    name: str
    devices_per_node: Figure
    memory_bytes: Figure
    reserve_bytes: Figure
    """What the driver, communication and fragments take of it."""
    memory_bandwidth: Figure
    """Bytes a second."""
    peak: dict[Precision, Figure]
    """FLOP/s of matrix products, without sparsity."""
    links: Links
    efficiency: Efficiency
    launch_seconds: Figure
    """That each operation takes at least."""
    communication_share: Figure
    """By which computation slows down while a transfer runs beside it."""
    price_per_hour: Figure
    """Of one device, in dollars."""
    failures: Failures
    kernels: Kernels = Kernels()

    @property
    def ranks_per_node(self) -> int:
        """One rank for each device."""
        return int(self.devices_per_node.value)

    def figures(self) -> dict[str, Figure]:
        """Every number by its path, as `links.node.bandwidth`."""
        return dict(_figures("", self))


def _figures(prefix: str, section: object) -> Iterator[tuple[str, Figure]]:
    if isinstance(section, Figure):
        yield prefix.rstrip("."), section
    elif isinstance(section, BaseModel):
        for name in type(section).model_fields:
            yield from _figures(f"{prefix}{name}.", getattr(section, name))
    elif isinstance(section, Mapping):
        for name, value in section.items():
            yield from _figures(f"{prefix}{name}.", value)


def profile_names() -> list[str]:
    """The profiles that come with the package."""
    return sorted(one.name.removesuffix(".yaml") for one in _profiles().iterdir() if one.name.endswith(".yaml"))


def read_hardware(name_or_file: str) -> Hardware:
    """A profile by its name, or a file of the same form. Raises InputError."""
    if name_or_file in profile_names():
        with resources.as_file(_profiles() / f"{name_or_file}.yaml") as path:
            return _read(path)
    if not name_or_file.endswith((".yaml", ".yml")):
        raise InputError(
            f"--hardware {name_or_file} is no profile and no YAML file; use one of {', '.join(profile_names())}, "
            "or a file"
        )
    return _read(Path(name_or_file))


def _profiles() -> "resources.abc.Traversable":
    return resources.files("firstlight.plan") / "profiles"


def _read(path: Path) -> Hardware:
    values = read_source(path).values
    try:
        return Hardware.model_validate(values)
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, fault['loc']))}: {fault['msg'][:1].lower()}{fault['msg'][1:]}"
            for fault in error.errors(include_url=False)
        ]
        raise InputError(f"{path} is no hardware profile:\n" + "\n".join(lines)) from None
