"""What MindFormers' `run_mindformer.py` is given: a YAML file, flags that stand for its keys, and `--a.b.c VALUE`."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from firstlight.base.errors import InputError
from firstlight.compat.change import Change

_KEYS = {
    "device_id": "context.device_id",
    "device_target": "context.device_target",
    "mode": "context.mode",
    "run_mode": "run_mode",
    "do_eval": "do_eval",
    "train_dataset_dir": "train_dataset.data_loader.dataset_dir",
    "eval_dataset_dir": "eval_dataset.data_loader.dataset_dir",
    "load_checkpoint": "load_checkpoint",
    "src_strategy_path_or_dir": "src_strategy_path_or_dir",
    "strategy_load_checkpoint": "src_strategy_path_or_dir",
    "auto_trans_ckpt": "auto_trans_ckpt",
    "transform_process_num": "transform_process_num",
    "only_save_strategy": "only_save_strategy",
    "resume_training": "resume_training",
    "remote_save_url": "remote_save_url",
    "seed": "seed",
    "use_parallel": "use_parallel",
    "profile": "profile",
    "output_dir": "output_dir",
    "trust_remote_code": "trust_remote_code",
    "epochs": "runner_config.epochs",
    "batch_size": "runner_config.batch_size",
    "gradient_accumulation_steps": "runner_config.gradient_accumulation_steps",
    "sink_mode": "runner_config.sink_mode",
    "num_samples": "train_dataset.data_loader.num_samples",
}
"""The key that each flag stands for."""

_INFERENCE = ("predict_data", "modal_type", "predict_batch_size", "adapter_id", "do_sample")


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """A file, and what is laid over it."""

    config: Path
    changes: tuple[Change, ...]
    register_path: Path | None
    """A folder of the user's own model code."""


def read_run_arguments(words: Sequence[str], home: Path) -> RunRequest:
    """Read the words after `run_mindformer.py`. As there, paths of YAML files and code are relative to `home`, the
    folder of the script. Raises InputError.
    """
    known, rest = _parser().parse_known_args(list(words))
    given = {name: value for name, value in vars(known).items() if value is not None}
    for name in _INFERENCE:
        if name in given:
            raise InputError(f"--{name} is for inference; run_mindformer.py only trains here")
    if "config" not in given:
        raise InputError("run_mindformer.py needs --config with the run's YAML file")
    config = _at(home, given["config"])
    if not config.is_file():
        raise InputError(f"--config {given['config']}: {config} does not exist (relative paths begin at {home})")
    register = _at(home, given["register_path"]) if "register_path" in given else None
    if register is not None and not register.is_dir():
        raise InputError(f"--register_path {given['register_path']}: {register} is no folder")
    flags = (
        Change(key=key, text=given[name], origin=f"--{name} {given[name]}")
        for name, key in _KEYS.items()
        if name in given and not (name == "mode" and given[name] == "1")  # 1 tells of the schema, not of a key
    )
    options = (_option(text) for text in given.get("options", ()))
    return RunRequest(config=config, changes=(*flags, *options, *_dotted(rest)), register_path=register)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"run_mindformer.py: {message}")


def _parser() -> _Parser:
    """Prefixes of flags are understood, as there."""
    parser = _Parser(prog="run_mindformer.py", description="Train from a MindFormers YAML file.")
    parser.add_argument("--config", help="the run's YAML file")
    parser.add_argument("--register_path", help="a folder of model code")
    for name, key in _KEYS.items():
        parser.add_argument(f"--{name}", help=key)
    for name in _INFERENCE:
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    parser.add_argument("--options", nargs="+", metavar="KEY=VALUE", help="values of keys; so does --KEY VALUE")
    return parser


def _at(home: Path, text: str) -> Path:
    return Path(text) if Path(text).is_absolute() else home / text


def _option(text: str) -> Change:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"--options {text}: expected KEY=VALUE, as in runner_config.epochs=1")
    return Change(key=key, text=value, origin=f"--options {text}")


def _dotted(words: Sequence[str]) -> Iterator[Change]:
    """`--a.b.c VALUE` and `--a.b.c=VALUE`."""
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if not name.startswith("--") or name == "--":
            raise InputError(f"run_mindformer.py: {word} belongs to no flag")
        if not equals:
            value = next(rest, "--")
            if value.startswith("--"):
                raise InputError(f"run_mindformer.py: {word} has no value")
        yield Change(key=name.removeprefix("--"), text=value, origin=f"{name} {value}")
