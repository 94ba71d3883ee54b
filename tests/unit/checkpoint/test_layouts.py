"""What one layout of data parallelism saved, every other one restores: weights, moments, router bias, position."""

import itertools
from pathlib import Path

import pytest

from firstlight.checkpoint.manifest import read_manifest
from firstlight.checkpoint.reader import ReadPlan
from firstlight.checkpoint.shards import local_shard
from firstlight.checkpoint.step_folder import candidates
from tests.unit.checkpoint.layouts import LAYOUTS, LaidOut, expected, name_of, rank_state
from tests.unit.checkpoint.state import checkpointer, same_bits
from tests.unit.resilience.peers import on_ranks

STEP = 6
Saved = dict[str, Path]
States = dict[str, list[LaidOut]]


@pytest.fixture(scope="module")
def states() -> States:
    """The state of every rank of every layout."""
    return {
        name_of(layout): [rank_state(layout, rank, step=STEP) for rank in range(layout.world_size)]
        for layout in LAYOUTS
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, states: States) -> Saved:
    """A checkpoint of every layout."""
    folders = {}
    for name, ranks in states.items():
        folder = tmp_path_factory.mktemp(name)
        answers = on_ranks(
            len(ranks), lambda peers, f=folder, r=ranks: checkpointer(f, peers=peers).save(r[peers.rank])
        )
        assert answers == [None] * len(ranks)
        folders[name] = folder
    return folders


def blanked(ranks: list[LaidOut]) -> list[LaidOut]:
    """The same tensors, with other values in them."""
    for state in ranks:
        state.values = {}
        for tensor in state.live.values():
            local_shard(tensor, is_first_rank=False).data.fill_(-1)
    return ranks


def assert_is_whole(state: LaidOut) -> None:
    assert state.values == {"step": STEP, "data": {"consumed_samples": 8 * STEP}}
    for name, tensor in state.live.items():
        shard = local_shard(tensor, is_first_rank=False)
        wanted = expected(name, shard.global_shape, shard.offset, shard.data.shape, STEP)
        assert same_bits(shard.data.contiguous(), wanted.contiguous()), name


PAIRS = list(itertools.product([name_of(layout) for layout in LAYOUTS], repeat=2))


@pytest.mark.parametrize(("there", "here"), PAIRS, ids=[f"{there}-{here}" for there, here in PAIRS])
def test_any_layout_restores_any_other_to_the_bit(saved: Saved, states: States, there: str, here: str) -> None:
    ranks = blanked(states[here])
    answers = on_ranks(len(ranks), lambda peers: checkpointer(saved[there], peers=peers).restore(ranks[peers.rank]))
    assert answers == [STEP] * len(ranks)
    for state in ranks:
        assert_is_whole(state)


def test_the_states_hold_what_must_come_back(states: States) -> None:
    names = set(states["1x1"][0].live)
    assert any(name.startswith("optimizer/exp_avg_sq/") for name in names)
    assert any(name.endswith("router.bias") and name.startswith("model/") for name in names)
    sharded = sum(local_shard(one, is_first_rank=False).data.numel() for one in states["1x4"][1].live.values())
    alone = sum(one.numel() for one in states["1x1"][0].live.values())
    assert sharded < alone / 3


@pytest.mark.parametrize("there", [name_of(layout) for layout in LAYOUTS])
def test_each_byte_is_in_a_checkpoint_once(saved: Saved, states: States, there: str) -> None:
    manifest = read_manifest(candidates(saved[there])[0])
    elements = sum(one.numel() for one in states["1x1"][0].live.values())
    size = sum(record.num_bytes for record in manifest.files.values())
    assert 4 * elements <= size < 1.5 * 4 * elements


def test_a_rank_reads_only_what_it_holds(saved: Saved, states: States, monkeypatch: pytest.MonkeyPatch) -> None:
    num_read: list[int] = []
    read = ReadPlan.read

    def counting(plan: ReadPlan) -> int:
        num_read.append(read(plan))
        return num_read[-1]

    monkeypatch.setattr(ReadPlan, "read", counting)
    ranks = blanked(states["1x4"])
    on_ranks(4, lambda peers: checkpointer(saved["1x2"], peers=peers).restore(ranks[peers.rank]))
    held = [sum(local_shard(one, is_first_rank=False).data.nbytes for one in state.live.values()) for state in ranks]
    assert sorted(num_read) == sorted(held)
