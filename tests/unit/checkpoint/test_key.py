"""A signed manifest is loaded with its key, and with nothing else."""

import json
from pathlib import Path

import pytest

from firstlight.base.errors import InputError, NoCheckpointError
from firstlight.base.peers import Alone
from firstlight.checkpoint.checkpointer import Checkpointer
from firstlight.checkpoint.key import read_key
from firstlight.checkpoint.manifest import Manifest, UnusableCheckpoint, read_manifest
from firstlight.config.training import CheckpointConfig
from tests.unit.checkpoint.state import State, blank, is_state_of

KEY, OTHER = b"k" * 32, b"o" * 32


def keyed(folder: Path, key: bytes | None) -> Checkpointer:
    """A checkpointer with its key in a file beside the folder."""
    file = None
    if key is not None:
        file = folder.with_name(f"key-{key[:1].decode()}")
        file.write_bytes(key + b"\n")
    config = CheckpointConfig(key_file=file, keep_last=1, asynchronous=False)
    return Checkpointer(folder, config, Alone(), configuration={})


@pytest.mark.parametrize(
    ("there", "here", "said"),
    [
        (KEY, OTHER, "is not signed by the key in checkpoint.key_file: that is another key, or somebody changed"),
        (KEY, None, "is signed; name the file of its key in checkpoint.key_file"),
        (None, KEY, "is not signed, and checkpoint.key_file asks for that"),
    ],
)
def test_another_key_or_none_is_refused(
    tmp_path: Path, there: bytes | None, here: bytes | None, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "checkpoints"
    keyed(folder, there).save(State(2))
    with pytest.raises(NoCheckpointError):
        keyed(folder, here).restore(blank())
    (line,) = caplog.messages
    assert str(folder / "step-00000002" / "manifest.json") in line
    assert said in line


def test_the_same_key_restores_and_counts_as_good(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    keyed(folder, KEY).save(State(2))
    one = keyed(folder, KEY)
    assert one.restore(state := blank()) == 2
    assert is_state_of(state, 2)
    one.save(State(4))
    assert [path.name for path in folder.glob("step-*")] == ["step-00000004"]


def test_a_manifest_that_was_changed_and_sealed_again_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    keyed(folder, KEY).save(State(2))
    path = folder / "step-00000002" / "manifest.json"
    content = json.loads(path.read_text()) | {"world_size": 7}
    forged = Manifest.model_validate(content).sealed()
    path.write_text(forged.model_copy(update={"signature": content["signature"]}).text())
    with pytest.raises(UnusableCheckpoint, match="somebody changed the manifest"):
        read_manifest(path.parent, KEY)


def test_a_key_is_a_secret_of_some_length(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"secret\n")
    with pytest.raises(InputError, match="holds 6 bytes; use 32 or more"):
        read_key(tmp_path / "short")
    with pytest.raises(InputError, match="cannot be read"):
        read_key(tmp_path / "nowhere")
    assert read_key(None) is None
