"""The sinks that a configuration asks for."""

from pathlib import Path

from firstlight.config.monitor import MonitorConfig, SinkName
from firstlight.observe.alerts import Alerts
from firstlight.observe.console import Console, StepLines
from firstlight.observe.events import EventLog
from firstlight.observe.jsonl import METRICS_FILE, JsonLines
from firstlight.observe.mindformers_lines import RunSize, graph_mode_lines, pynative_line
from firstlight.observe.mlflow import Mlflow
from firstlight.observe.prometheus import Prometheus
from firstlight.observe.sink import Sink
from firstlight.observe.tensorboard import TensorBoard
from firstlight.observe.wandb import WeightsAndBiases

TENSORBOARD_FOLDER = "tensorboard"


def sinks_for(config: MonitorConfig, *, folder: Path, size: RunSize, events: EventLog) -> tuple[Sink, ...]:
    """The sinks that `config` names, writing into the run's `folder`, and the alerts: for one rank alone."""
    sinks = [_sink(name, config, folder, size, events) for name in dict.fromkeys(config.sinks)]
    return (*sinks, Alerts(config.alerts, events, run=str(folder))) if config.alerts else tuple(sinks)


def _sink(name: SinkName, config: MonitorConfig, folder: Path, size: RunSize, events: EventLog) -> Sink:
    match name:
        case "console":
            console = Console(total_steps=size.total_steps, step_lines=_step_lines(config, size))
            events.listen(console.take_event)
            return console
        case "jsonl":
            return JsonLines(folder / METRICS_FILE)
        case "tensorboard":
            return TensorBoard(folder / TENSORBOARD_FOLDER)
        case "wandb":
            return WeightsAndBiases(config.wandb, folder)
        case "mlflow":
            return Mlflow(config.mlflow, folder)
        case "prometheus":
            return Prometheus(config.prometheus.port)


def _step_lines(config: MonitorConfig, size: RunSize) -> StepLines | None:
    match config.console:
        case "mindformers":
            return lambda record: graph_mode_lines(record, size)
        case "mindformers_pynative":
            return lambda record: [pynative_line(record, size)]
        case _:
            return None
