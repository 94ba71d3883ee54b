"""Weights of Hugging Face folders: in and out to the bit, in 8-bit blocks, and all tensors of a released checkpoint."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from firstlight.base.errors import InputError
from firstlight.config.load import load
from firstlight.config.model import ModelConfig
from firstlight.convert import huggingface
from firstlight.convert.fp8_blocks import dequantised
from firstlight.convert.hub_section import expanded, read_section
from firstlight.convert.hub_weights import read_weights
from firstlight.convert.tensor_layout import to_theirs
from firstlight.data.prepare import PrepareRequest, prepare
from firstlight.models.decoder import Decoder
from firstlight.models.family import family_of
from tests.parity.hub_cases import CASES, EXPORTED, MTP, Case
from tests.parity.test_hugging_face import ALL_EXPORTED, exported, laid_out
from tests.runs import make_tiny_run

STORIES = Path(__file__).parents[3] / "shared" / "data" / "models" / "stories260K"
Published = tuple[str, tuple[int, ...], str]
EXAMPLE = Path(__file__).parents[2] / "examples" / "deepseek-v3-4k.yaml"


def named(model: Decoder) -> dict[str, Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def read_into_new(config: ModelConfig, folder: Path) -> Decoder:
    model = family_of(config).build(config)
    read_weights(config, folder, named(model))
    return model


@pytest.mark.parametrize("case", {**ALL_EXPORTED, "mtp": MTP}.values(), ids={**ALL_EXPORTED, "mtp": MTP})
def test_what_goes_out_comes_in_to_the_bit(case: Case, tmp_path: Path) -> None:
    ours = laid_out(case.ours)
    folder = exported(ours, tmp_path)
    # The section is that of the file, up to what only training knows.
    assert read_section(folder)["hidden_size"] == case.ours.hidden_size
    read = read_into_new(case.ours, folder)
    for name, tensor in named(read).items():
        assert torch.equal(tensor, named(ours)[name]), name


def test_an_export_in_several_files_is_never_whole_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 kB each, but for tensors that are larger by themselves."""
    sizes = []
    save = huggingface.save_file
    monkeypatch.setattr(huggingface, "_SHARD_BYTES", 40_000)
    monkeypatch.setattr(
        huggingface,
        "save_file",
        lambda tensors, *rest, **more: (
            sizes.append(sum(one.nbytes for one in tensors.values())) or save(tensors, *rest, **more)
        ),
    )
    case = EXPORTED["deepseek_yarn"]
    ours = laid_out(case.ours)
    folder = exported(ours, tmp_path)
    largest = max(tensor.nbytes for tensor in named(ours).values())
    assert len(sizes) > 5
    assert max(sizes) <= max(40_000, largest)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(sizes)
    for name, tensor in named(read_into_new(case.ours, folder)).items():
        assert torch.equal(tensor, named(ours)[name]), name


def test_8_bit_blocks_with_ragged_edges() -> None:
    """576 rows are four and a half blocks: the fifth row of scales is for half a block."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(576, 300, generator=generator).to(torch.float8_e4m3fn)
    scales = torch.rand(5, 3, generator=generator) + 0.5
    out = dequantised(values, scales)
    for row, column in ((0, 0), (127, 128), (128, 127), (511, 299), (512, 0), (575, 256), (575, 299)):
        expected = values[row, column].float() * scales[row // 128, column // 128]
        assert out[row, column] == expected
    with pytest.raises(InputError, match=r"\(4, 3\) scales for 576 x 300 8-bit weights; \(5, 3\) are needed"):
        dequantised(values, scales[:4])


def test_an_8_bit_checkpoint_comes_in_by_its_scales(tmp_path: Path) -> None:
    config = EXPORTED["deepseek_yarn"].ours
    folder = exported(laid_out(config), tmp_path)
    stored = load_file(folder / "model.safetensors")
    expected = {}
    for name in [name for name in stored if name.endswith("proj.weight")]:
        rows, columns = stored[name].shape
        scales = torch.rand(math.ceil(rows / 128), math.ceil(columns / 128)) + 0.5
        stored[name] = stored[name].to(torch.float8_e4m3fn)
        stored[f"{name.removesuffix('.weight')}.weight_scale_inv"] = scales
        expected[name] = dequantised(stored[name], scales)
    save_file(stored, folder / "model.safetensors")
    model = read_into_new(config, folder)
    table = family_of(config).names(config)
    for name, tensor in named(model).items():
        entry = table.entry(name)
        for theirs, part in zip(entry.theirs, to_theirs(entry, [tensor]), strict=True):
            assert torch.equal(part, expected.get(theirs, stored[theirs].float())), theirs


def test_a_folder_of_several_files(tmp_path: Path) -> None:
    config = CASES["llama3"].ours
    ours = laid_out(config)
    folder = exported(ours, tmp_path)
    stored = load_file(folder / "model.safetensors")
    names = sorted(stored)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2])):
        save_file({name: stored[name] for name in part}, folder / f"part-{number}.safetensors")
        weight_map |= dict.fromkeys(part, f"part-{number}.safetensors")
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert torch.equal(read_into_new(config, folder).head.weight, ours.head.weight)
    index.write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))
    with pytest.raises(InputError, match="names files outside of its folder"):
        read_into_new(config, folder)


def test_all_that_does_not_fit_is_named_at_once(tmp_path: Path) -> None:
    config = CASES["llama3"].ours
    folder = exported(laid_out(config), tmp_path)
    stored = load_file(folder / "model.safetensors")
    del stored["model.norm.weight"]
    stored["model.layers.0.mlp.up_proj.weight"] = torch.zeros(3, 64)
    stored["model.layers.1.self_attn.q_proj.bias"] = torch.zeros(4)
    save_file(stored, folder / "model.safetensors")
    with pytest.raises(InputError) as refused:
        read_into_new(config, folder)
    message = str(refused.value)
    assert "model.norm.weight is missing" in message
    assert "model.layers.0.mlp.up_proj.weight has shape [3, 64], this model's has [96, 64]" in message
    assert "model.layers.1.self_attn.q_proj.bias is not of this model" in message


def test_a_second_copy_that_differs_is_refused(tmp_path: Path) -> None:
    folder = exported(laid_out(MTP.ours), tmp_path)
    stored = load_file(folder / "model.safetensors")
    stored["model.layers.4.embed_tokens.weight"] += 1
    save_file(stored, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"model.layers.4.embed_tokens.weight is a copy of model.embed_tokens.weight"):
        read_into_new(MTP.ours, folder)


def published_tensors() -> Iterator[Published]:
    """Name, shape and dtype of every tensor of DeepSeek-V3's released 8-bit checkpoint, from its configuration."""
    vocabulary, width, dense, expert, layers, heads = 129280, 7168, 18432, 2048, 61, 128

    def matrix(name: str, rows: int, columns: int, *, is_8_bit: bool = True) -> Iterator[Published]:
        yield f"{name}.weight", (rows, columns), "F8_E4M3" if is_8_bit else "BF16"
        if is_8_bit:
            yield f"{name}.weight_scale_inv", (math.ceil(rows / 128), math.ceil(columns / 128)), "F32"

    def feed_forward(name: str, inner: int) -> Iterator[Published]:
        yield from matrix(f"{name}.gate_proj", inner, width)
        yield from matrix(f"{name}.up_proj", inner, width)
        yield from matrix(f"{name}.down_proj", width, inner)

    yield "model.embed_tokens.weight", (vocabulary, width), "BF16"
    yield "model.norm.weight", (width,), "BF16"
    yield "lm_head.weight", (vocabulary, width), "BF16"
    for layer in range(layers + 1):
        at = f"model.layers.{layer}"
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{at}.{name}.weight", (width,), "BF16"
        yield f"{at}.self_attn.q_a_layernorm.weight", (1536,), "BF16"
        yield f"{at}.self_attn.kv_a_layernorm.weight", (512,), "BF16"
        yield from matrix(f"{at}.self_attn.q_a_proj", 1536, width)
        yield from matrix(f"{at}.self_attn.q_b_proj", heads * 192, 1536)
        yield from matrix(f"{at}.self_attn.kv_a_proj_with_mqa", 576, width)
        yield from matrix(f"{at}.self_attn.kv_b_proj", heads * 256, 512)
        yield from matrix(f"{at}.self_attn.o_proj", width, heads * 128)
        if layer < 3:
            yield from feed_forward(f"{at}.mlp", dense)
            continue
        yield from matrix(f"{at}.mlp.gate", 256, width, is_8_bit=False)
        yield f"{at}.mlp.gate.e_score_correction_bias", (256,), "F32"
        yield from feed_forward(f"{at}.mlp.shared_experts", expert)
        for number in range(256):
            yield from feed_forward(f"{at}.mlp.experts.{number}", expert)
    for name in ("enorm", "hnorm", "shared_head.norm"):
        yield f"model.layers.{layers}.{name}.weight", (width,), "BF16"
    yield f"model.layers.{layers}.eh_proj.weight", (width, 2 * width), "BF16"
    for name in ("embed_tokens", "shared_head.head"):
        yield f"model.layers.{layers}.{name}.weight", (vocabulary, width), "BF16"


def test_every_tensor_of_the_released_deepseek_v3_has_its_place() -> None:
    """91,991 names and shapes, without a weight: none is missing, none is over."""
    published = {name: shape for name, shape, _ in published_tensors()}
    assert len(published) == 91_991
    elements = {dtype: 0 for dtype in ("BF16", "F8_E4M3", "F32")}
    for _, shape, dtype in published_tensors():
        elements[dtype] += math.prod(shape)
    # The counts that the hub gives for the checkpoint.
    assert elements == {"BF16": 3_918_786_560, "F8_E4M3": 680_571_043_840, "F32": 41_555_600}
    config = load(EXAMPLE).config.model
    family = family_of(config)
    with torch.device("meta"):
        tensors = named(family.build(config))
    table = family.names(config)
    ours = {}
    for entry in table.entries(tensors):
        parts = to_theirs(entry, [tensors[name] for name in entry.ours])
        ours |= {name: tuple(part.shape) for name, part in zip(entry.theirs, parts, strict=True)}
    ours |= {theirs: tuple(tensors[name].shape) for theirs, name in table.copies.items()}
    scales = {name for name in published if name.endswith("weight_scale_inv")}
    assert ours == {name: shape for name, shape in published.items() if name not in scales}
    assert {name.removesuffix("_scale_inv") for name in scales} <= ours.keys()


@pytest.mark.skipif(not STORIES.is_dir(), reason=f"there is no {STORIES}")
def test_a_real_model_tells_its_story() -> None:
    config = ModelConfig.model_validate(read_section(STORIES))
    model = read_into_new(config, STORIES)
    story = json.loads((STORIES / "greedy.json").read_text())["greedy_ids_from_bos"]
    told = story[:1]
    with torch.no_grad():
        while len(told) < len(story):
            told.append(int(model.logits(torch.tensor([told]))[0, -1].argmax()))
    assert told == story


def section_of(folder: Path) -> str:
    return f"model: {{from_hf: {folder}}}\n"


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_training_goes_on_from_a_folder(tmp_path: Path, processes: int) -> None:
    """Not from the seed, on any number of processes; and a run that is continued goes on from its checkpoint."""
    run = make_tiny_run(tmp_path)
    config = load(run.folder / "run.yaml").config.model
    folder = exported(laid_out(config), tmp_path / "hub")
    yaml = (run.folder / "run.yaml").read_text()
    (run.folder / "run.yaml").write_text(section_of(folder) + yaml[yaml.index("data:") :])
    done = run.train("training.steps=2", processes=processes)
    assert done.returncode == 0, done.stderr
    assert "starting from the weights in" in done.stdout + done.stderr
    first = run.metrics("step")[0]["loss"]
    reference = make_tiny_run(tmp_path / "reference")
    assert reference.train("training.steps=1").returncode == 0
    assert first != reference.metrics("step")[0]["loss"]
    again = run.train("training.steps=2", processes=processes)
    assert again.returncode == 0, again.stderr
    assert "starting from the weights in" not in again.stdout + again.stderr


def test_a_section_that_says_otherwise_is_refused(tmp_path: Path) -> None:
    folder = exported(laid_out(CASES["llama3"].ours), tmp_path)
    section = {"from_hf": str(folder), "initializer_range": 0.5, "max_position_embeddings": 512}
    assert expanded(section)["initializer_range"] == 0.5
    with pytest.raises(InputError, match=r"model.hidden_size = 65, there 64") as refused:
        expanded({**section, "hidden_size": 65, "attention": {"num_attention_heads": 8}})
    assert "model.attention.num_attention_heads = 8, there 4" in str(refused.value)


def test_an_unknown_field_is_refused_by_name(tmp_path: Path) -> None:
    folder = exported(laid_out(CASES["llama3"].ours), tmp_path)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "logit_softcapping": 30.0}))
    with pytest.raises(InputError, match="logit_softcapping"):
        read_section(folder)


@pytest.mark.slow
@pytest.mark.skipif(not STORIES.is_dir(), reason=f"there is no {STORIES}")
def test_a_real_model_learns_another_text(tmp_path: Path) -> None:
    """From its published weights, not from noise: the first loss is that of a model that knows such stories."""
    run = make_tiny_run(tmp_path)
    lines = [
        f"Once upon a time, there was a little {animal} named {name}. {name} loved to play in the {place}. "
        f'One day, {name} saw a big {thing}. "Wow, what a nice {thing}!" said {name}.'
        for animal in ("dog", "cat", "bird", "fish")
        for name in ("Tim", "Lily", "Ben", "Sue", "Max")
        for place in ("park", "house", "garden", "sun")
        for thing in ("ball", "tree", "box", "car")
    ]
    (tmp_path / "stories.txt").write_text("\n".join(lines))
    prepare(
        PrepareRequest(
            inputs=(tmp_path / "stories.txt",),
            documents="line",
            tokenizer=STORIES / "tokenizer.json",
            output_prefix=run.folder / "data" / "more",
            held_out_fraction=0.2,
            eod_token="</s>",
        )
    )
    (run.folder / "run.yaml").write_text(
        section_of(STORIES)
        + f"""\
data:
  train: {{sources: [{{path: data/more_text_document}}], sequence_length: 128}}
  evaluate: [{{name: more, path: data/more_heldout_text_document}}]
  tokenizer: {STORIES / "tokenizer.json"}
optimizer: {{type: adamw, learning_rate: 1e-3}}
training: {{steps: 30, global_batch_size: 8, evaluate_every_steps: 15, evaluate_samples: 32, output_folder: out}}
monitor: {{log_every_steps: 1, sinks: [jsonl], peak_flops_per_second: 1e12}}
"""
    )
    done = run.train()
    assert done.returncode == 0, done.stderr
    losses = [line["loss"] for line in run.metrics("step")]
    assert losses[-1] < losses[0] - 0.5
    assert losses[0] < 3  # ln 512 = 6.24 is what a model of noise has
    held_out = [line["evaluate/more/loss"] for line in run.metrics("evaluation")]
    assert held_out[-1] < held_out[0]
