"""Conversions between formats: the same numbers after every round, and after a kill at any place."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from firstlight.base.errors import FirstlightError, FolderInUseError, InputError
from firstlight.config.model import ModelConfig
from firstlight.convert.conversion import Conversion, ConversionPlan
from firstlight.convert.formats import FORMATS, format_named, format_of
from firstlight.convert.mindformers_weights import MindFormersChoices
from firstlight.convert.mindspore_ckpt_reader import MindSporeCkpt
from firstlight.convert.named_weights import NamedWeights
from firstlight.convert.tensor_layout import to_theirs
from firstlight.convert.weight_format import ReadChoices
from firstlight.models.family import family_of
from firstlight.models.mindformers_rows import MindFormersLayout, mindformers_table

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "max_position_embeddings": 32}
DEEPSEEK = {
    **SIZES,
    "family": "deepseek_v3",
    "attention": {
        "kind": "mla",
        "num_attention_heads": 2,
        "q_lora_rank": 6,
        "kv_lora_rank": 4,
        "qk_nope_head_dim": 4,
        "qk_rope_head_dim": 2,
        "v_head_dim": 3,
    },
    "feed_forward": {
        "kind": "moe",
        "first_k_dense_replace": 1,
        "intermediate_size": 12,
        "moe_intermediate_size": 5,
        "n_routed_experts": 3,
        "router": {"num_experts_per_tok": 2},
    },
    "multi_token_prediction": {"num_layers": 1},
}
GROUPED = {
    **SIZES,
    "family": "qwen3",
    "attention": {
        "kind": "gqa",
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "qk_norm": "per_head",
    },
    "feed_forward": {"kind": "dense", "intermediate_size": 24},
}
MODELS = {
    "deepseek": DEEPSEEK,
    "no_query_latent": {**DEEPSEEK, "attention": {**DEEPSEEK["attention"], "q_lora_rank": None}},
    "grouped": GROUPED,
    "biased": {
        **SIZES,
        "family": "qwen2",
        "attention": {**GROUPED["attention"], "qk_norm": "none", "bias": "qkv"},
        "feed_forward": GROUPED["feed_forward"],
    },
    "tied": {**GROUPED, "tie_word_embeddings": True},
}


def model_of(name: str) -> ModelConfig:
    return ModelConfig.model_validate(MODELS[name])


def hub_tensors(model: ModelConfig, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Every tensor of the hub's, with numbers of its own."""
    seed = torch.Generator().manual_seed(0)
    table = family_of(model).names(model)
    found: dict[str, Tensor] = {}
    for entry in family_of(model).tensors(model):
        shapes = [family_of(model).shapes(model)[name].shape for name in entry.ours]
        for theirs in entry.theirs:
            shape = shapes[0][1:] if entry.layout == "per_expert" else shapes[0]
            kept = torch.float32 if theirs.endswith("e_score_correction_bias") else dtype
            found[theirs] = torch.randn(shape, generator=seed).to(kept)
    found |= {theirs: found[table.entry(ours).theirs[0]].clone() for theirs, ours in table.copies.items()}
    return found


@pytest.fixture
def hub(tmp_path: Path) -> Callable[..., Path]:
    """Writes a Hugging Face folder of a model."""

    def write(model: ModelConfig, dtype: torch.dtype = torch.float32) -> Path:
        folder = tmp_path / "hub"
        folder.mkdir()
        save_file(hub_tensors(model, dtype), folder / "model.safetensors", metadata={"format": "pt"})
        config = {**family_of(model).config_json(model), "eos_token_id": 3}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "tokenizer.json").write_text("{}")
        return folder

    return write


def planned(origin: Path, output: Path, target: str, choices: ReadChoices | None = None) -> Conversion:
    choices = choices or ReadChoices()
    opened = format_of(origin).open(origin, choices)
    return Conversion(origin=origin, opened=opened, choices=choices, target=format_named(target), output=output)


def convert(origin: Path, output: Path, target: str, choices: ReadChoices | None = None) -> Path:
    ConversionPlan(planned(origin, output, target, choices)).run(lambda _: None)
    assert not output.with_name(output.name + ".partial").exists()
    return output


def same_bytes(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        one.dtype == second[name].dtype and torch.equal(one, second[name]) for name, one in first.items()
    )


JOINED = MindFormersChoices(is_interleaved=False, is_grouped=False)
ROUNDS = [
    *((name, "mindspore-ckpt", MindFormersChoices()) for name in MODELS),
    ("deepseek", "mindspore-safetensors", JOINED),
    ("biased", "mindspore-safetensors", JOINED),
]


@pytest.mark.parametrize(("name", "target", "choices"), ROUNDS, ids=str)
def test_to_mindspore_and_back(
    tmp_path: Path, hub: Callable[..., Path], name: str, target: str, choices: MindFormersChoices
) -> None:
    model = model_of(name)
    origin = hub(model, torch.bfloat16)
    suffix = target.removeprefix("mindspore-")
    there = convert(origin, tmp_path / f"there.{suffix}", target, ReadChoices(mindformers=choices))
    assert format_of(there).name == target
    back = convert(there, tmp_path / "back", "huggingface", ReadChoices(model=model, mindformers=choices))
    assert same_bytes(load_file(back / "model.safetensors"), load_file(origin / "model.safetensors"))
    written = json.loads((back / "config.json").read_text())
    assert written["dtype"] == "bfloat16"
    assert written.items() >= family_of(model).config_json(model).items()


def test_what_a_hub_folder_has_beside_weights_goes_along(tmp_path: Path, hub: Callable[..., Path]) -> None:
    origin = hub(model_of("grouped"))
    copy = convert(origin, tmp_path / "copy", "huggingface")
    assert sorted(path.name for path in copy.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert json.loads((copy / "config.json").read_text())["eos_token_id"] == 3
    with safe_open(copy / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_files_of_a_size_with_their_index(tmp_path: Path, hub: Callable[..., Path]) -> None:
    origin = hub(model_of("deepseek"))
    conversion = replace(planned(origin, tmp_path / "copy", "huggingface"), shard_bytes=3000)
    ConversionPlan(conversion).run(lambda _: None)
    files = sorted((tmp_path / "copy").glob("*.safetensors"))
    assert len(files) > 3
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    found = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert same_bytes(found, load_file(origin / "model.safetensors"))
    index = json.loads((tmp_path / "copy" / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {name: file.name for file in files for name in load_file(file)}
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in found.values())
    assert same_bytes(
        load_file(convert(tmp_path / "copy", tmp_path / "again", "huggingface") / "model.safetensors"), found
    )


def test_dtypes(tmp_path: Path, hub: Callable[..., Path]) -> None:
    origin = hub(model_of("deepseek"))
    conversion = replace(planned(origin, tmp_path / "half.ckpt", "mindspore-ckpt"), dtype=torch.float16)
    ConversionPlan(conversion).run(lambda _: None)
    ckpt = MindSporeCkpt(tmp_path / "half.ckpt")
    assert ckpt.has_crc
    dtypes = {name: stored.dtype for name, stored in ckpt.tensors.items()}
    assert {dtype for name, dtype in dtypes.items() if name.endswith("expert_bias")} == {torch.float32}
    assert {dtype for name, dtype in dtypes.items() if not name.endswith("expert_bias")} == {torch.float16}
    table = mindformers_table(model_of("deepseek"), MindFormersLayout())
    original = load_file(origin / "model.safetensors")
    assert torch.equal(
        ckpt.read(table.theirs("embedding.weight")[0]), original["model.embed_tokens.weight"].to(torch.float16)
    )


def test_joined_latents_and_stacked_experts_are_seen(tmp_path: Path, hub: Callable[..., Path]) -> None:
    model = model_of("deepseek")
    origin = hub(model)
    opened = format_of(origin).open(origin, ReadChoices())
    layout = MindFormersLayout(has_joined_latents=True, has_stacked_experts=True)
    table, tensors = mindformers_table(model, layout), family_of(model).shapes(model)
    theirs: dict[str, Tensor] = {}
    for entry in table.entries(tensors):
        ours = []
        for name in entry.ours:
            ours.append(opened.weights.read(opened.weights.table.entry(name), tensors)[name])
        theirs |= {key: value.contiguous() for key, value in zip(entry.theirs, to_theirs(entry, ours), strict=True)}
    assert theirs["decoder.layers.1.mlp.experts.weight1"].shape == (3, 16, 10)
    assert theirs["decoder.layers.0.self_attention.linear_qkv.weight"].shape == (6 + 4 + 2, 16)
    extra = {"adam_m.output_layer.weight": torch.zeros(1), "epoch_num": torch.tensor(1)}
    path = tmp_path / "theirs.safetensors"
    save_file({**theirs, **extra}, path, metadata={"format": "ms"})
    back = convert(path, tmp_path / "back", "huggingface", ReadChoices(model=model))
    assert same_bytes(load_file(back / "model.safetensors"), load_file(origin / "model.safetensors"))


def test_what_does_not_fit_is_named_before_anything_is_written(tmp_path: Path, hub: Callable[..., Path]) -> None:
    model = model_of("deepseek")
    there = convert(hub(model), tmp_path / "there.safetensors", "mindspore-safetensors")
    tensors = load_file(there)
    name = "decoder.layers.1.mlp.experts.weight1"
    changed = {**tensors, "decoder.other": torch.ones(1), name: torch.ones(4, 4)}
    del changed["output_layer.weight"]
    save_file(changed, there)
    conversion = planned(there, tmp_path / "out", "huggingface", ReadChoices(model=model))
    with pytest.raises(InputError) as refused:
        ConversionPlan(conversion)
    message = str(refused.value)
    assert f"{name} has shape [4, 4], this model's has [48, 10]" in message
    assert "output_layer.weight is missing" in message
    assert "decoder.other is not of this model" in message
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="no configuration of its model"):
        planned(there, tmp_path / "out", "huggingface")


def test_megatrons_checkpoints_are_refused(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(b"")
    (tmp_path / "__0_0.distcp").write_bytes(b"")
    assert format_of(tmp_path).name == "megatron"
    with pytest.raises(InputError, match="pickles, which are never loaded"):
        format_of(tmp_path).open(tmp_path, ReadChoices())


def test_formats_are_told_apart_or_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        format_of(tmp_path / "none")
    with pytest.raises(InputError, match="none of the known formats"):
        format_of(tmp_path)
    with pytest.raises(InputError, match="known are firstlight, huggingface"):
        format_named("pickle")
    assert len({row.name for row in FORMATS}) == len(FORMATS)


def test_models_that_mindformers_does_not_name() -> None:
    sandwich = ModelConfig.model_validate({**GROUPED, "family": "glm4", "norms": "sandwich"})
    with pytest.raises(InputError, match="norms = sandwich are not known"):
        mindformers_table(sandwich, MindFormersLayout())


def test_an_output_that_is_there_is_not_touched(tmp_path: Path, hub: Callable[..., Path]) -> None:
    origin = hub(model_of("grouped"))
    (tmp_path / "there.ckpt").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        ConversionPlan(planned(origin, tmp_path / "there.ckpt", "mindspore-ckpt"))
    with pytest.raises(InputError, match="firstlight is read, not written"):
        ConversionPlan(planned(origin, tmp_path / "run", "firstlight"))
    mine = tmp_path / "out.partial"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes.txt is in it"):
        convert(origin, tmp_path / "out", "huggingface")
    assert (mine / "notes.txt").read_text() == "mine"


class Stopped(Exception):
    """Stands for a kill."""


def stop_at(num_calls: int) -> Callable[[int], None]:
    calls = iter(range(num_calls))

    def advance(_: int) -> None:
        if next(calls, None) is None:
            raise Stopped

    return advance


@pytest.mark.parametrize("target", ["mindspore-ckpt", "mindspore-safetensors", "huggingface"])
def test_a_conversion_goes_on_where_it_was(
    tmp_path: Path, hub: Callable[..., Path], target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = hub(model_of("deepseek"))

    def conversion(output: str) -> Conversion:
        return replace(planned(origin, tmp_path / output, target), shard_bytes=3000, journal_seconds=0)

    ConversionPlan(conversion("whole")).run(lambda _: None)
    read: list[str] = []
    original = NamedWeights.read
    monkeypatch.setattr(
        NamedWeights, "read", lambda self, entry, tensors: read.append(entry.ours[0]) or original(self, entry, tensors)
    )
    starts = 0
    while not (tmp_path / "out").exists():
        starts += 1
        try:
            ConversionPlan(conversion("out")).run(stop_at(3 + starts))
        except Stopped:
            # Bytes that the journal does not count: a write that was under way.
            journal = json.loads((tmp_path / "out.partial" / "conversion.json").read_text())["files"]
            for file in (tmp_path / "out.partial").glob("model*"):
                if not journal.get(file.name, {}).get("is_finished"):
                    with file.open("ab") as stream:
                        stream.write(b"torn")
    assert starts > 3
    assert len(read) < 2 * len(ConversionPlan(conversion("other"))._translation.entries)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def contents(path: Path) -> dict[str, bytes]:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {file.name if path.is_dir() else "": file.read_bytes() for file in files}


def test_another_request_starts_anew(tmp_path: Path, hub: Callable[..., Path]) -> None:
    origin = hub(model_of("deepseek"))
    first = replace(planned(origin, tmp_path / "out.ckpt", "mindspore-ckpt"), journal_seconds=0)
    with pytest.raises(Stopped):
        ConversionPlan(first).run(stop_at(8))
    assert (tmp_path / "out.ckpt.partial" / "conversion.json").is_file()
    ConversionPlan(replace(first, dtype=torch.bfloat16)).run(lambda _: None)
    ConversionPlan(replace(first, dtype=torch.bfloat16, output=tmp_path / "whole.ckpt")).run(lambda _: None)
    assert (tmp_path / "out.ckpt").read_bytes() == (tmp_path / "whole.ckpt").read_bytes()


def test_two_conversions_of_one_output(tmp_path: Path, hub: Callable[..., Path]) -> None:
    origin = hub(model_of("grouped"))
    conversion = planned(origin, tmp_path / "out", "huggingface")

    def start_another(_: int) -> None:
        ConversionPlan(conversion).run(lambda _: None)

    with pytest.raises(FolderInUseError, match="written by another conversion"):
        ConversionPlan(conversion).run(start_another)


def test_a_disk_that_refuses(tmp_path: Path, hub: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    origin = hub(model_of("grouped"))
    plan = ConversionPlan(planned(origin, tmp_path / "out.ckpt", "mindspore-ckpt"))

    def refuse(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(FirstlightError, match="No space left on device.*bytes are free"):
        plan.run(lambda _: None)
    assert not (tmp_path / "out.ckpt").exists()
    monkeypatch.undo()
    plan.run(lambda _: None)
    assert MindSporeCkpt(tmp_path / "out.ckpt").has_crc


KILLED = """
import os, signal, sys
from pathlib import Path
from dataclasses import replace
from firstlight.convert.conversion import ConversionPlan
from tests.unit.convert.test_conversion import planned
origin, output, after = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
calls = iter(range(after))
def advance(_):
    if next(calls, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
conversion = planned(origin, output, "mindspore-ckpt")
ConversionPlan(replace(conversion, journal_seconds=0)).run(advance)
"""


def test_killed_and_started_again(tmp_path: Path, hub: Callable[..., Path]) -> None:
    origin = hub(model_of("deepseek"))
    whole = convert(origin, tmp_path / "whole.ckpt", "mindspore-ckpt")
    output = tmp_path / "out.ckpt"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(origin), str(output), "9"],
        cwd=Path(__file__).parents[3],
        timeout=300,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert not output.exists()
    convert(origin, output, "mindspore-ckpt")
    assert output.read_bytes() == whole.read_bytes()
