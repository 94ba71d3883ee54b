"""Text is the model's: the same for the same seed, within the context, up to the end of the document."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from firstlight.base.errors import InputError
from firstlight.data.tokenizer import load_tokenizer, train_tokenizer
from firstlight.train.generate import generate
from firstlight.train.run_folder import RunFolder
from firstlight.train.sampling import Sampling
from firstlight.train.trained import TrainedRun
from tests.runs import TINY_YAML, tiny_documents
from tests.unit.config.yaml_file import loaded

END = 0
"""The id of `<|endoftext|>` in a tokenizer of our own."""


class Successor(nn.Module):
    """Gives token t + 1 the score 4 after token t, and the end of the document `end` after `ends_after` tokens."""

    def __init__(self, ends_after: int = 10**9) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.ends_after = ends_after
        self.widths: list[int] = []

    def logits(self, tokens: Tensor) -> Tensor:
        self.widths.append(tokens.shape[1])
        logits = torch.zeros(*tokens.shape, 300)
        logits.scatter_(-1, ((tokens + 1) % 300)[..., None], 4.0)
        if len(self.widths) > self.ends_after:
            logits[..., END] = 100.0
        return logits


@pytest.fixture
def run(tmp_path: Path) -> TrainedRun:
    train_tokenizer(tiny_documents(), 300).save(str(tmp_path / "tokenizer.json"))
    config = loaded(tmp_path, TINY_YAML).config
    return TrainedRun(folder=RunFolder(path=tmp_path), config=config, model=Successor(), step=4)  # type: ignore[arg-type]


def test_the_same_seed_writes_the_same(run: TrainedRun) -> None:
    texts = [generate(run, "abc", Sampling(max_new_tokens=20, seed=seed)) for seed in (1, 1, 2, 2, 3)]
    assert texts[0] == texts[1]
    assert texts[2] == texts[3]
    assert len(set(texts)) == 3
    assert all(text.startswith("abc") for text in texts)


def test_the_global_generator_plays_no_part(run: TrainedRun) -> None:
    torch.manual_seed(1)
    first = generate(run, "abc", Sampling(max_new_tokens=20))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert generate(run, "abc", Sampling(max_new_tokens=20)) == first
    assert torch.get_rng_state().equal(state)


def test_temperature_0_takes_the_likeliest_whatever_the_seed(run: TrainedRun) -> None:
    tokenizer = load_tokenizer(run.folder.tokenizer)
    first = tokenizer.encode("a").ids[0]
    expected = tokenizer.decode(list(range(first, first + 6)))
    for seed in range(3):
        assert generate(run, "a", Sampling(max_new_tokens=5, temperature=0, seed=seed)) == expected


def test_one_token_to_choose_from_is_the_likeliest(run: TrainedRun) -> None:
    greedy = generate(run, "a", Sampling(max_new_tokens=5, temperature=0))
    assert generate(run, "a", Sampling(max_new_tokens=5, temperature=2.0, top_k=1, seed=9)) == greedy


def test_more_choices_than_tokens_are_all_of_them(run: TrainedRun) -> None:
    assert generate(run, "a", Sampling(max_new_tokens=5, top_k=10**6)).startswith("a")


@pytest.mark.parametrize("ends_after", [0, 3])
def test_the_end_of_the_document_ends_the_text(run: TrainedRun, ends_after: int) -> None:
    model = Successor(ends_after)
    ended = replace(run, model=model)  # type: ignore[arg-type]
    text = generate(ended, "a", Sampling(max_new_tokens=50, temperature=0))
    assert len(model.widths) == ends_after + 1
    assert "endoftext" not in text


def test_the_model_sees_no_more_than_its_context(run: TrainedRun) -> None:
    generate(run, "abc", Sampling(max_new_tokens=50))
    widths = run.model.widths  # type: ignore[attr-defined]
    assert len(widths) == 50
    assert max(widths) == run.config.data.train.sequence_length
    assert widths == sorted(widths)


def test_a_prompt_longer_than_the_context_is_refused(run: TrainedRun) -> None:
    prompt = "abc " * 100
    count = len(load_tokenizer(run.folder.tokenizer).encode(prompt).ids)
    with pytest.raises(InputError) as caught:
        generate(run, prompt, Sampling())
    assert str(caught.value) == f"the prompt has {count} tokens, the model was trained on 32; use a shorter one"


def test_an_empty_prompt_begins_a_document(run: TrainedRun) -> None:
    tokenizer = load_tokenizer(run.folder.tokenizer)
    assert tokenizer.token_to_id("<|endoftext|>") == END
    text = generate(run, "", Sampling(max_new_tokens=3, temperature=0))
    assert text == tokenizer.decode([END, 1, 2, 3], skip_special_tokens=True)
