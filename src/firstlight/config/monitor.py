"""What is measured and shown of a run, where, how often, and what raises an alarm."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from firstlight.config.alert_rule import parse_alert_rule
from firstlight.config.schedule import Steps
from firstlight.config.section import Count, NotNegative, Positive, Section

SinkName = Literal["console", "jsonl", "tensorboard", "wandb", "mlflow", "prometheus"]
Measure = Literal["ranks", "weights", "updates", "optimizer_state", "layers", "communication", "device"]


def _parsed(text: str) -> str:
    parse_alert_rule(text)
    return text


def _address(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{text!r} is no web address; use http://... or https://...")
    return text


class AlertConfig(Section):
    """A rule, and what is done when it begins to hold. Every alert is in the log and in events.jsonl."""

    when: Annotated[str, AfterValidator(_parsed)]
    """A comparison of figures of metrics.jsonl: `loss > 12`, `tokens_per_second < 0.8 * median`."""
    for_records: Count = 1
    """Consecutive records for which the rule must hold."""
    command: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """A program and its arguments, started without a shell, with the alert as JSON on its standard input."""
    webhook: Annotated[str, AfterValidator(_address)] | None = None
    """A web address that the alert is posted to as JSON."""


class SamplesConfig(Section):
    """Texts that the model writes while it trains, into sample-STEP.txt; the report shows them."""

    prompts: Annotated[tuple[str, ...], Field(min_length=1, max_length=64)] = ("",)
    """What it goes on from; an empty one: the start of a document."""
    every_steps: Steps = 0
    """0: only after the last step."""
    max_new_tokens: Count = 64
    """Each takes a forward pass over whole sequences."""
    temperature: NotNegative = 0.8
    """0: always the likeliest token."""
    top_k: Count = 50
    """Choose among this many likeliest tokens."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of the choice."""


class ProfileConfig(Section):
    """Steps that torch's profiler watches."""

    first_step: Count
    num_steps: Annotated[int, Field(ge=1, le=100)] = 2
    ranks: tuple[Annotated[int, Field(ge=0)], ...] = (0,)
    """The ranks that are watched; each writes a trace of its own."""
    memory: bool = False
    """Whether allocations are recorded in the trace, and the blocks of the device's allocator in a file beside it."""
    top_spans: Count = 10
    """Rows of the table in the log."""


class WandbConfig(Section):
    """The sink `wandb` (needs firstlight[wandb])."""

    project: str = "firstlight"
    name: str | None = None
    """Of the run; null: that of its folder."""
    mode: Literal["offline", "online"] = "offline"
    """offline: into the run's folder, for `wandb sync`; online: to the service, with the key that wandb knows."""


class MlflowConfig(Section):
    """The sink `mlflow` (needs firstlight[mlflow])."""

    tracking_uri: str | None = None
    """Of the server or the folder; null: mlflow/ in the run's folder."""
    experiment: str = "firstlight"


class PrometheusConfig(Section):
    """The sink `prometheus`: the newest figures at http://127.0.0.1:PORT/metrics, for a scraper on the same machine."""

    port: Annotated[int, Field(ge=0, le=65535)] = 9464
    """0: any free one; the log says which."""


class MonitorConfig(Section):
    """What is measured and shown, where, and how often."""

    log_every_steps: Count = 10
    sinks: tuple[SinkName, ...] = ("console", "jsonl", "tensorboard")
    console: Literal["firstlight", "mindformers", "mindformers_pynative"] = "firstlight"
    """Whose form the lines of the console have. mindformers: as MindFormers' graph mode logs; mindformers_pynative: as
    its PyNative mode does. What reads their logs reads these."""
    measure: tuple[Measure, ...] = ("ranks",)
    """What is measured at logged steps beside what costs nothing. ranks: step time, loss, norm and memory of each rank;
    weights, updates, optimizer_state: their norms by group of modules; layers: gradient norms by layer;
    communication: how long ranks only wait for data of others, told by torch's profiler; device: temperature, clock
    and power, where torch tells them."""
    watches_attention_logits: bool = False
    """Whether the largest attention logit is measured, at the price of one more product of queries and keys.
    `optimizer.qk_clip` measures it anyway."""
    peak_flops_per_second: Positive | None = None
    """Of one device, for the MFU figure; null measures this device's matrix products at the start."""
    alerts: tuple[AlertConfig, ...] = ()
    samples: SamplesConfig | None = None
    profile: ProfileConfig | None = None
    wandb: WandbConfig = WandbConfig()
    mlflow: MlflowConfig = MlflowConfig()
    prometheus: PrometheusConfig = PrometheusConfig()
