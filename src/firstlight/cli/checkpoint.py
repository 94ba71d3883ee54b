"""`firstlight checkpoint ...`: look at a run's checkpoints, check, compare and remove them."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from firstlight.base.errors import InputError, NoCheckpointError

if TYPE_CHECKING:
    from firstlight.checkpoint.object_store import ObjectStore

app = typer.Typer(no_args_is_help=True, help="Look at a run's checkpoints, check, compare and remove them.")

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run's output folder.", show_default=False)]
Step = Annotated[int | None, typer.Option(min=0, help="Of this step; default: the newest.", show_default=False)]
Stored = Annotated[bool, typer.Option("--stored", help="Those in object storage (checkpoint.copy_to).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(run: Run, stored: Stored = False, as_json: AsJson = False) -> None:
    """Print the checkpoints, the newest first; their files are not read."""
    from firstlight.checkpoint.facts import list_checkpoints, stored_checkpoints

    folder, key = _checkpoints(run)
    there = stored_checkpoints(_store(run), None, key, reads_files=False) if stored else list_checkpoints(folder, key)
    found = [asdict(one) for one in there]
    _print(found, [_line(one, "complete") for one in found], as_json)


@app.command()
def verify(run: Run, step: Step = None, stored: Stored = False, as_json: AsJson = False) -> None:
    """Hold every file to its digest. Exit code 3 when one cannot be used; without --step, all are looked at."""
    from firstlight.checkpoint.facts import stored_checkpoints, verify_checkpoints

    folder, key = _checkpoints(run)
    if stored:
        found = [asdict(one) for one in stored_checkpoints(_store(run), step, key, reads_files=True)]
    else:
        found = [asdict(one) for one in verify_checkpoints(folder, step, key)]
    _print(found, [_line(one, "sound") for one in found], as_json)
    num_bad = sum(one["fault"] is not None for one in found)
    if num_bad:
        raise NoCheckpointError(f"{num_bad} of {len(found)} checkpoints cannot be used")


@app.command()
def inspect(run: Run, step: Step = None, as_json: AsJson = False) -> None:
    """Print what a checkpoint holds: position, files, tensors and the blocks that they are in."""
    from firstlight.checkpoint.facts import inspect_checkpoint

    folder, key = _checkpoints(run)
    facts = inspect_checkpoint(folder, step, key)
    lines = [f"step {facts['step']}, written by {facts['world_size']} rank(s)", f"state {json.dumps(facts['state'])}"]
    lines += [f"{name}  {record['num_bytes']:,} bytes" for name, record in facts["files"].items()]
    for name, record in facts["tensors"].items():
        lines.append(f"{name}  {record['dtype']} {record['shape']} in {len(record['shards'])} block(s)")
    _print(facts, lines, as_json)


@app.command()
def diff(
    run: Run,
    first: Annotated[int, typer.Argument(metavar="STEP", help="A step.", show_default=False)],
    second: Annotated[int, typer.Argument(metavar="STEP", help="Another one.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Print the tensors that differ between two checkpoints, and by how much at most."""
    from firstlight.checkpoint.facts import compare

    folder, key = _checkpoints(run)
    found = [asdict(one) for one in compare(folder, first, second, key)]
    lines = [
        f"{one['name']}  {one['what']}" + ("" if one["largest"] is None else f" differ by at most {one['largest']:.3g}")
        for one in found
    ]
    _print(found, lines or ["the same"], as_json)


@app.command()
def prune(
    run: Run,
    keep_last: Annotated[int, typer.Option(min=1, help="Keep the newest so many.")] = 3,
    keep_every_steps: Annotated[int, typer.Option(min=0, help="Keep multiples of this; 0: none.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Remove old checkpoints; the newest that is whole and healthy always stays. Not while the run trains."""
    from firstlight.checkpoint.facts import prune as prune_checkpoints
    from firstlight.checkpoint.lock import FolderLock

    folder, key = _checkpoints(run)
    with FolderLock(run) as lock:
        lock.acquire()
        removed = prune_checkpoints(folder, keep_last=keep_last, keep_every_steps=keep_every_steps, key=key)
    _print(removed, [f"step {step} removed" for step in removed] or ["nothing to remove"], as_json)


def _checkpoints(run: Path) -> tuple[Path, bytes | None]:
    from firstlight.checkpoint.key import read_key
    from firstlight.train.run_folder import open_run

    folder, config = open_run(run)
    return folder.checkpoints, read_key(config.checkpoint.key_file)


def _store(run: Path) -> "ObjectStore":
    from firstlight.checkpoint.object_store import open_store
    from firstlight.train.run_folder import open_run

    url = open_run(run)[1].checkpoint.copy_to
    if url is None:
        raise InputError(f"{run} has no checkpoints in object storage: its checkpoint.copy_to is null")
    return open_store(url)


def _line(one: dict[str, Any], good: str) -> str:
    return f"step {one['step']}  {one['num_bytes']:,} bytes  {one['world_size']} rank(s)  {one['fault'] or good}"


def _print(facts: Any, lines: list[str], as_json: bool) -> None:
    for line in [json.dumps(facts, indent=1)] if as_json else lines:
        typer.echo(line)
