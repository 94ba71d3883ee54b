"""A changed byte is noticed; the checkpoint is passed over, with file, found and expected, for the one before it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from firstlight.base.errors import NoCheckpointError
from firstlight.checkpoint.checkpointer import load_newest
from firstlight.checkpoint.manifest import Manifest, UnusableCheckpoint, read_manifest
from tests.unit.checkpoint.state import MODEL_FILE, OPTIMIZER_FILE, blank, checkpointer, is_state_of, saved

NEWEST = "step-00000004"
TENSOR_FILES = (MODEL_FILE, OPTIMIZER_FILE)


@pytest.fixture
def newest(tmp_path: Path) -> Path:
    """The newer one of two checkpoints."""
    return saved(tmp_path, 2, 4) / NEWEST


def flip(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


def passed_over(newest: Path, caplog: pytest.LogCaptureFixture) -> str:
    """What is said when the newest is passed over, after checking that the one before it was used."""
    caplog.clear()
    assert checkpointer(newest.parent).restore(state := blank()) == 2
    assert is_state_of(state, 2)
    (said,) = caplog.messages
    return said


@pytest.mark.parametrize("file", TENSOR_FILES)
def test_one_flipped_bit_of_tensors_is_noticed(newest: Path, file: str, caplog: pytest.LogCaptureFixture) -> None:
    path = newest / file
    size = path.stat().st_size
    expected = json.loads((newest / "manifest.json").read_text())["files"][file]["pieces"][0]
    for bit in (0, 8 * 8 + 1, 4 * size, 8 * size - 1):
        flip(path, bit)
        said = passed_over(newest, caplog)
        found = re.fullmatch(
            rf"checkpoint passed over: {path} is changed in bytes 0 to {size}: BLAKE3 (\w{{64}}), expected {expected}",
            said,
        )
        assert found is not None
        assert found[1] != expected
        flip(path, bit)
    assert checkpointer(newest.parent).restore(blank()) == 4


@pytest.mark.parametrize("file", TENSOR_FILES)
def test_a_truncated_file_is_noticed_by_its_size(newest: Path, file: str, caplog: pytest.LogCaptureFixture) -> None:
    path = newest / file
    content = path.read_bytes()
    for kept in (0, 1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:kept])
        expected = f"checkpoint passed over: {path} has {kept} bytes, expected {len(content)}"
        assert passed_over(newest, caplog) == expected
    path.write_bytes(content + b"\0")
    assert f"{len(content) + 1} bytes, expected {len(content)}" in passed_over(newest, caplog)


@pytest.mark.parametrize("file", [*TENSOR_FILES, "manifest.json"])
def test_a_missing_file_is_noticed(newest: Path, file: str, caplog: pytest.LogCaptureFixture) -> None:
    (newest / file).unlink()
    said = passed_over(newest, caplog)
    assert str(newest / file) in said
    assert ("never finished" if file == "manifest.json" else "cannot be read") in said


def test_a_torn_manifest_is_noticed(newest: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = newest / "manifest.json"
    content = path.read_bytes()
    for kept in (0, 1, len(content) // 2, len(content) - 2):
        path.write_bytes(content[:kept])
        assert f"{path} cannot be read: " in passed_over(newest, caplog)
    path.write_bytes(b"\xff" + content[1:])
    assert f"{path} cannot be read: " in passed_over(newest, caplog)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda manifest: manifest.pop("step"), "is damaged: step: "),
        (lambda manifest: manifest.update(extra=1), "is damaged: extra: "),
        (lambda manifest: manifest.update(files=7), "is damaged: files: "),
        (lambda manifest: manifest.update(version=4), "is firstlight-checkpoint version 4; this program reads"),
        (lambda manifest: manifest.update(format="x"), "is x version 3; this program reads firstlight-checkpoint"),
        (lambda manifest: manifest["files"].pop(MODEL_FILE), f"names {MODEL_FILE} but has no record of it"),
        (lambda manifest: manifest["tensors"].pop("model/scale"), "has no tensor model/scale"),
        (lambda manifest: manifest["tensors"]["model/scale"].update(shards=[]), "0 of 1 elements of model/scale"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(
    newest: Path, change: Callable[[dict[str, object]], object], what: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = newest / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(resealed(manifest))
    said = passed_over(newest, caplog)
    assert what in said
    assert str(newest) in said


def test_any_flipped_bit_of_the_manifest_is_noticed(newest: Path) -> None:
    path = newest / "manifest.json"
    content = path.read_bytes()
    for number in range(len(content)):
        path.write_bytes(content[:number] + bytes([content[number] ^ 1]) + content[number + 1 :])
        with pytest.raises(UnusableCheckpoint, match=r"manifest\.json"):
            read_manifest(newest)


def test_when_all_are_damaged_no_run_starts_from_zero(newest: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = [folder / MODEL_FILE for folder in sorted(newest.parent.glob("step-*"))]
    for file in files:
        flip(file, 800)
    with pytest.raises(NoCheckpointError) as caught:
        checkpointer(newest.parent).restore(blank())
    assert caught.value.exit_code == 3
    assert str(caught.value) == (
        f"none of the 2 checkpoints in {newest.parent} can be loaded (reasons above); "
        "repair one, or start in another output folder"
    )
    assert all(any(f"{file} is changed" in said for said in caplog.messages) for file in files)
    with pytest.raises(NoCheckpointError, match="can be loaded"):
        load_newest(newest.parent, blank().tensors())


def test_another_models_shapes_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved(tmp_path, 2)
    with pytest.raises(NoCheckpointError):
        checkpointer(tmp_path).restore(blank(width=4))
    (said,) = caplog.messages
    folder = tmp_path / "step-00000002"
    assert (
        said
        == f"checkpoint passed over: {folder}: tensor model/embedding.weight has shape [5, 3], this run's has [5, 4]"
    )


def resealed(manifest: dict[str, object]) -> str:
    """The text of a manifest whose digest fits, where it can have one: what is tested lies behind that check."""
    try:
        return Manifest.model_validate(manifest).sealed().model_dump_json()
    except ValidationError:
        return json.dumps(manifest)
