"""Checkpoints in object storage: committed by their manifest, verified, brought back. Against a server of S3 here."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from firstlight.base.errors import FirstlightError, InputError, NoCheckpointError
from firstlight.base.peers import Alone
from firstlight.checkpoint.checkpointer import Checkpointer
from firstlight.checkpoint.facts import stored_checkpoints
from firstlight.checkpoint.object_store import ObjectStore, StoredCopies, fetch_newer, open_store
from firstlight.checkpoint.step_folder import candidates
from firstlight.config.training import CheckpointConfig
from tests.unit.checkpoint.state import MODEL_FILE, State, blank, checkpointer, contents, is_state_of, saved

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("s3fs")
server = pytest.importorskip("moto.server")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket on a server of this process; its URL."""
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("NO_PROXY", "127.0.0.1")
        fsspec.filesystem("s3").mkdir("bucket")
        yield "s3://bucket"
    fsspec.filesystem("s3").clear_instance_cache()
    running.stop()


@pytest.fixture(params=["s3", "memory"])
def url(request: pytest.FixtureRequest) -> str:
    """A folder of its own, on the server or in memory."""
    root = request.getfixturevalue("s3") if request.param == "s3" else "memory://bucket"
    return f"{root}/{uuid.uuid4().hex}/run"


def copying(folder: Path, store: ObjectStore, **settings: Any) -> Checkpointer:
    config = CheckpointConfig(**({"keep_last": 2, "asynchronous": False} | settings))
    after_save = [StoredCopies(store, config)]
    return Checkpointer(folder, config, Alone(), configuration={}, after_save=after_save)


def put(store: ObjectStore, path: str, content: bytes) -> None:
    """Write an object over another, as damage."""
    store._objects.pipe_file(f"{store._root}/{path}", content)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_run_in_an_empty_folder_goes_on_from_the_store(tmp_path: Path, url: str, asynchronous: bool) -> None:
    store = open_store(url)
    one = copying(tmp_path / "here", store, asynchronous=asynchronous)
    for step in (2, 4, 6):
        one.save(State(step))
    one.finish()
    assert store.steps() == [6, 4]
    fetch_newer(store, tmp_path / "elsewhere", None)
    assert contents(tmp_path / "elsewhere" / "step-00000006") == contents(tmp_path / "here" / "step-00000006")
    assert checkpointer(tmp_path / "elsewhere").restore(state := blank()) == 6
    assert is_state_of(state, 6)


def test_only_what_is_newer_is_brought(tmp_path: Path, url: str) -> None:
    store = open_store(url)
    copying(tmp_path / "there", store).save(State(4))
    saved(tmp_path / "here", 4)
    before = (tmp_path / "here" / "step-00000004").stat().st_ino
    fetch_newer(store, tmp_path / "here", None)
    assert (tmp_path / "here" / "step-00000004").stat().st_ino == before
    copying(tmp_path / "there", store).save(State(6))
    fetch_newer(store, tmp_path / "here", None)
    assert [path.name for path in candidates(tmp_path / "here")] == ["step-00000006", "step-00000004"]


def test_a_damaged_one_is_passed_over_for_the_one_before(
    tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(url)
    one = copying(tmp_path / "there", store)
    for step in (2, 4):
        one.save(State(step))
    content = bytearray((tmp_path / "there" / "step-00000004" / MODEL_FILE).read_bytes())
    content[-1] ^= 1
    put(store, f"step-00000004/{MODEL_FILE}", bytes(content))
    bad, good = stored_checkpoints(store, None, reads_files=True)
    assert f"{url}/step-00000004/{MODEL_FILE} is changed from byte 0 on: BLAKE3 " in str(bad.fault)
    assert (good.step, good.fault) == (2, None)
    fetch_newer(store, tmp_path / "here", None)
    assert any("checkpoint passed over: " in line and MODEL_FILE in line for line in caplog.messages)
    assert checkpointer(tmp_path / "here").restore(state := blank()) == 2
    assert is_state_of(state, 2)
    put(store, "step-00000002/manifest.json", b"{")
    with pytest.raises(NoCheckpointError, match="none of the 2 checkpoints in .* is sound"):
        fetch_newer(store, tmp_path / "nowhere", None)


class Interrupted(BaseException):
    """Stands for the end of the process."""


class FailingObjects:
    """Lets the first few writes through, then raises."""

    def __init__(self, objects: Any, passed: int, error: BaseException) -> None:
        self._objects = objects
        self._passed = passed
        self._error = error

    def __getattr__(self, name: str) -> Any:
        act = getattr(self._objects, name)
        if name not in ("put_file", "pipe_file", "rm_file", "rm"):
            return act

        def acting(*arguments: Any, **keywords: Any) -> Any:
            if self._passed == 0:
                raise self._error
            self._passed -= 1
            return act(*arguments, **keywords)

        return acting


def test_a_copy_that_is_interrupted_anywhere_leaves_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    steps = []
    for passed in range(20):
        url = f"memory://bucket/{uuid.uuid4().hex}"
        whole = open_store(url)
        copying(tmp_path / str(passed), whole, keep_last=1).save(State(2))
        failing = ObjectStore(FailingObjects(whole._objects, passed, Interrupted()), whole._root, url=url)
        try:
            copying(tmp_path / str(passed), failing, keep_last=1).save(State(4))
        except Interrupted:
            pass
        else:
            break
        assert not [one for one in stored_checkpoints(whole, None, reads_files=True) if one.fault]
        fetch_newer(whole, tmp_path / f"here-{passed}", None)
        steps.append(checkpointer(tmp_path / f"here-{passed}").restore(state := blank()))
        assert is_state_of(state, steps[-1])
        # What was left behind is swept by the next copy.
        copying(tmp_path / str(passed), whole, keep_last=1).save(State(6))
        assert whole.steps() == [6]
        assert whole.unfinished() == []
    assert set(steps) == {2, 4}
    assert steps == sorted(steps)


def test_a_store_that_refuses_ends_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = open_store(f"memory://bucket/{uuid.uuid4().hex}")
    objects = FailingObjects(whole._objects, 0, OSError("no such bucket"))
    one = copying(tmp_path, ObjectStore(objects, whole._root, url=whole.url))
    one.save(State(2))
    (line,) = caplog.messages
    assert line == (
        f"{whole.url} does not take step-00000002: OSError: no such bucket; training goes on, and the next save tries "
        "again"
    )
    with pytest.raises(FirstlightError, match="the last state is saved in .*, but memory://"):
        one.finish()
    assert [path.name for path in candidates(tmp_path)] == ["step-00000002"]


def test_a_server_that_is_not_there_is_an_error(tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(FirstlightError, match=rf"{s3}/x cannot be listed: "):
        fetch_newer(open_store(f"{s3}/x"), tmp_path, None)
    fsspec.filesystem("s3").clear_instance_cache()
    assert os.listdir(tmp_path) == []


def test_a_url_of_no_known_kind_is_wrong_input() -> None:
    with pytest.raises(InputError, match="checkpoint.copy_to = nothing://x cannot be used: "):
        open_store("nothing://x")
