"""`firstlight checkpoint ...`: look at a run's checkpoints, check, compare and remove them."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from firstlight.base.errors import NoCheckpointError

app = typer.Typer(no_args_is_help=True, help="Look at a run's checkpoints, check, compare and remove them.")

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run's output folder.", show_default=False)]
Step = Annotated[int | None, typer.Option(min=0, help="Of this step; default: the newest.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(run: Run, as_json: AsJson = False) -> None:
    """Print the checkpoints, the newest first; their files are not read."""
    from firstlight.checkpoint.facts import list_checkpoints

    found = [asdict(one) for one in list_checkpoints(_checkpoints(run))]
    _print(found, [_line(one, "complete") for one in found], as_json)


@app.command()
def verify(run: Run, step: Step = None, as_json: AsJson = False) -> None:
    """Hold every file to its digest. Exit code 3 when one cannot be used; without --step, all are looked at."""
    from firstlight.checkpoint.facts import verify_checkpoints

    found = [asdict(one) for one in verify_checkpoints(_checkpoints(run), step)]
    _print(found, [_line(one, "sound") for one in found], as_json)
    num_bad = sum(one["fault"] is not None for one in found)
    if num_bad:
        raise NoCheckpointError(f"{num_bad} of {len(found)} checkpoints cannot be used")


@app.command()
def inspect(run: Run, step: Step = None, as_json: AsJson = False) -> None:
    """Print what a checkpoint holds: position, files, tensors and the blocks that they are in."""
    from firstlight.checkpoint.facts import inspect_checkpoint

    facts = inspect_checkpoint(_checkpoints(run), step)
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

    found = [asdict(one) for one in compare(_checkpoints(run), first, second)]
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

    folder = _checkpoints(run)
    with FolderLock(run) as lock:
        lock.acquire()
        removed = prune_checkpoints(folder, keep_last=keep_last, keep_every_steps=keep_every_steps)
    _print(removed, [f"step {step} removed" for step in removed] or ["nothing to remove"], as_json)


def _checkpoints(run: Path) -> Path:
    from firstlight.train.run_folder import open_run

    return open_run(run)[0].checkpoints


def _line(one: dict[str, Any], good: str) -> str:
    return f"step {one['step']}  {one['num_bytes']:,} bytes  {one['world_size']} rank(s)  {one['fault'] or good}"


def _print(facts: Any, lines: list[str], as_json: bool) -> None:
    for line in [json.dumps(facts, indent=1)] if as_json else lines:
        typer.echo(line)
