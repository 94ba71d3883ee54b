"""What `run.json` says of a run: how large it is, on which ranks, of which data, by which code."""

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import firstlight
from firstlight.config.schema import RunConfig
from firstlight.layout.counts import count_parameters, flops_per_token
from firstlight.layout.mesh import Layout
from firstlight.layout.stages import stages_of, stages_on
from firstlight.train.place import Place
from firstlight.train.run_folder import REGISTERED
from firstlight.train.start_checks import versions

_GIT_SECONDS = 20


def run_facts(config: RunConfig, place: Place, data_fingerprint: str) -> dict[str, Any]:
    """All of `run.json`. The tokenizer lies in the run's folder already."""
    counts = count_parameters(config.model)
    registered = {} if place.own_model is None else {REGISTERED: place.own_model.facts()}
    return {
        **registered,
        "parameters": counts.total,
        "activated_parameters": counts.activated,
        "flops_per_token": flops_per_token(config.model, config.data.train.sequence_length),
        "world_size": place.world.size,
        "device": place.device.type,
        "layout": layout_table(config, place.world.size),
        "data": {
            "fingerprint": data_fingerprint,
            "tokenizer_sha256": hashlib.sha256(place.folder.tokenizer.read_bytes()).hexdigest(),
        },
        "git": git_state(Path(firstlight.__file__).parent),
        "versions": versions(),
    }


def layout_table(config: RunConfig, world_size: int) -> dict[str, Any]:
    """`degrees` of the axes, the decoder layers of each of the `stages`, and for each of the `ranks` its place on the
    axes and the stages that it has."""
    layout, pipeline = Layout.of(config.parallelism, world_size), config.parallelism.pipeline
    stages = stages_of(config.model, pipeline, layout.pp, config.data.train.sequence_length)
    return {
        "degrees": layout.degrees(),
        "stages": [list(stage.layers) for stage in stages],
        "ranks": [
            {**(place := layout.coordinates(rank)), "stages": stages_on(place["pp"], layout.pp, pipeline)}
            for rank in range(world_size)
        ],
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit that the code in `folder` is of, and whether files there differ from it or are in no commit.

    None where git does not keep that code (an installed package, even one inside of another repository), or is missing.
    """
    if shutil.which("git") is None or not _git(folder, "ls-files", "."):
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--", ".")
    return None if commit is None or changes is None else {"commit": commit, "is_dirty": bool(changes)}


def _git(folder: Path, *words: str) -> str | None:
    """What git answers; None when it refuses, or takes too long."""
    # a repository may name a program of its own for this
    command = ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
