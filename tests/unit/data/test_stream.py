"""Every sample once, on any number of ranks, from any place."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from firstlight.base.errors import FirstlightError
from firstlight.config.timeline import Stretch, Timeline
from firstlight.data.samples import Samples
from firstlight.data.stream import Batch, Masking, TokenStream

LENGTH = 3


class Numbers:
    """Sample k is k, k + 1, ...; the last one of `num_real` is padding."""

    sequence_length = LENGTH

    def __init__(self, size: int, num_real: int = LENGTH + 1) -> None:
        self.size = size
        self.num_real = num_real

    def __len__(self) -> int:
        return self.size

    def read(self, numbers: NDArray[np.int64], out: Samples, rows: NDArray[np.int64]) -> None:
        out.tokens[rows] = numbers[:, None] + np.arange(LENGTH + 1)
        out.tokens[rows, self.num_real :] = 0
        out.num_real[rows] = self.num_real
        out.begins[rows, 0] = True


def streams(size: int, *, batch: int, micro: int, ranks: int, consumed: int = 0) -> list[TokenStream]:
    made = [
        TokenStream(
            Numbers(size),
            timeline=Timeline.even(batch_size=batch),
            micro_batch_size=micro,
            data_rank=rank,
            data_size=ranks,
        )
        for rank in range(ranks)
    ]
    for stream in made:
        stream.load_state_dict({"consumed_samples": consumed})
    return made


def samples(batches: list[Batch]) -> list[int]:
    return [int(k) for batch in batches for k in batch.tokens[:, 0]]


@given(
    ranks=st.sampled_from([1, 2, 4]),
    micro=st.integers(1, 3),
    chunks=st.integers(1, 3),
    steps=st.integers(1, 4),
    resume=st.integers(0, 40),
)
@settings(max_examples=60, deadline=None)
def test_each_sample_once_from_any_place(ranks: int, micro: int, chunks: int, steps: int, resume: int) -> None:
    batch = micro * ranks * chunks
    made = streams(resume + steps * batch, batch=batch, micro=micro, ranks=ranks, consumed=resume)
    for step in range(steps):
        first = resume + step * batch
        assert sorted(samples([next(stream) for stream in made])) == list(range(first, first + batch))
    for stream in made:
        assert stream.state_dict()["consumed_samples"] == resume + steps * batch
        with pytest.raises(FirstlightError, match="exhausted"):
            next(stream)


def test_a_position_means_the_same_on_other_ranks() -> None:
    (alone,) = streams(100, batch=8, micro=2, ranks=1)
    next(alone)
    state = alone.state_dict()
    rest = samples([next(alone)])
    others = streams(100, batch=8, micro=1, ranks=4)
    for stream in others:
        stream.load_state_dict(state)
    assert sorted(samples([next(stream) for stream in others])) == rest


def test_micro_batches_are_slices_of_chunks() -> None:
    first, second = streams(16, batch=8, micro=2, ranks=2)
    assert samples([next(first)]) == [0, 1, 4, 5]
    assert samples([next(second)]) == [2, 3, 6, 7]


def test_a_batch_has_labels_one_place_later() -> None:
    batch = next(streams(4, batch=4, micro=2, ranks=2)[0])
    assert batch.samples == 4
    assert batch.tokens.tolist() == [[0, 1, 2], [1, 2, 3]]
    assert batch.labels.tolist() == [[1, 2, 3], [2, 3, 4]]
    assert batch.loss_mask.tolist() == [[1, 1, 1], [1, 1, 1]]
    dtypes = [str(values.dtype) for values in (batch.tokens, batch.labels, batch.loss_mask)]
    assert dtypes == ["int32", "int32", "float32"]


def test_the_end_of_a_document_is_masked_where_it_is_the_input() -> None:
    stream = TokenStream(
        Numbers(2),
        timeline=Timeline.even(batch_size=2),
        micro_batch_size=1,
        data_rank=0,
        data_size=1,
        masking=Masking(end_of_document=1),
    )
    assert next(stream).loss_mask.tolist() == [[1, 0, 1], [0, 1, 1]]


def test_padding_is_masked_by_position() -> None:
    stream = TokenStream(
        Numbers(1, num_real=2), timeline=Timeline.even(batch_size=1), micro_batch_size=1, data_rank=0, data_size=1
    )
    assert next(stream).loss_mask.tolist() == [[1, 0, 0]]


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    ranks=st.sampled_from([1, 2, 3, 4]),
    micro=st.integers(1, 4),
    resume=st.integers(0, 4),
)
@settings(deadline=None, max_examples=60)
def test_uneven_batches_are_the_same_samples_on_any_number_of_ranks(
    sizes: list[int], ranks: int, micro: int, resume: int
) -> None:
    timeline = Timeline(stretches=tuple(Stretch(steps=1, batch_size=size, sequence_length=LENGTH) for size in sizes))
    resume = min(resume, len(sizes) - 1)
    made = [
        TokenStream(Numbers(60), timeline=timeline, micro_batch_size=micro, data_rank=rank, data_size=ranks)
        for rank in range(ranks)
    ]
    for stream in made:
        stream.load_state_dict({"consumed_samples": sum(sizes[:resume])})
    for step in range(resume, len(sizes)):
        batches = [next(stream) for stream in made]
        start = sum(sizes[:step])
        assert sorted(samples(batches)) == list(range(start, start + sizes[step]))
        assert {batch.samples for batch in batches} == {sizes[step]}
        most = max(-(-len(batch.tokens) // micro) for batch in batches)
        assert {batch.num_micro_batches for batch in batches} == {most}


def test_a_negative_position_is_refused() -> None:
    with pytest.raises(FirstlightError, match="-1"):
        streams(8, batch=4, micro=2, ranks=2, consumed=-1)


def test_separate_documents_leave_out_the_prediction_of_their_first_tokens() -> None:
    class Documents(Numbers):
        def read(self, numbers: NDArray[np.int64], out: Samples, rows: NDArray[np.int64]) -> None:
            super().read(numbers, out, rows)
            out.begins[rows, 2] = True

    def batch(masking: Masking) -> Batch:
        return next(
            TokenStream(
                Documents(1),
                timeline=Timeline.even(batch_size=1),
                micro_batch_size=1,
                data_rank=0,
                data_size=1,
                masking=masking,
            )
        )

    apart = batch(Masking(separates_documents=True))
    assert apart.loss_mask.tolist() == [[1, 0, 1]]
    assert apart.begins is not None
    assert apart.begins.tolist() == [[True, False, True]]
    assert batch(Masking()).begins is None
