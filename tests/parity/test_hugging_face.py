"""Our models against transformers': logits, losses, every gradient, the router's choices; and what we export."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
)
from transformers.modeling_layers import MtpModel

from firstlight.base.peers import Alone
from firstlight.checkpoint.checkpointer import Checkpointer
from firstlight.config.model import ModelConfig
from firstlight.config.training import CheckpointConfig
from firstlight.convert.huggingface import ExportedTokenizer, export
from firstlight.convert.tensor_layout import to_theirs
from firstlight.data.tokenizer import END_OF_DOCUMENT, train_tokenizer
from firstlight.layout.mesh import Layout
from firstlight.models.decoder import Decoder
from firstlight.models.family import family_of, family_of_config_json
from firstlight.models.router import TopKRouter
from firstlight.parallel.apply import Keeping, build_parallel
from firstlight.train.state import model_tensors
from tests.parity.hub_cases import CASES, EXPERTS, EXPORTED, MTP, ROUTER, VOCABULARY, Case
from tests.parity.hub_families import FAMILY_CASES, FAMILY_MTP
from tests.parity.hub_tensors import gradients, hub_names, load_from_hub, mtp_hub_names, ours_from_hub, saved_tensors
from tests.unit.models.tiny_model import randomise

pytestmark = pytest.mark.interop

ALL_CASES = {**CASES, **FAMILY_CASES}
ALL_EXPORTED = {**EXPORTED, **FAMILY_CASES}
READ = {**ALL_CASES, "mtp": MTP, "glm4_moe_mtp": FAMILY_MTP}
LENGTH = 32
TOLERANCE = 1e-5


@pytest.fixture
def known_mtp_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers knows layers of multi-token prediction by the numbers that they have in released models alone."""
    for model in (MTP.theirs, FAMILY_MTP.theirs):
        monkeypatch.setattr(model, "_keys_to_ignore_on_load_unexpected", [r"model\.layers\.[45]\..*"])


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The same weights in both."""

    ours: Decoder
    theirs: PreTrainedModel
    hub: dict[str, Tensor]
    used: set[str]


@pytest.fixture(scope="module", params=ALL_CASES.values(), ids=ALL_CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    case: Case = request.param
    torch.manual_seed(0)
    theirs = case.theirs(case.config).eval()
    theirs.set_attn_implementation("eager")
    with torch.no_grad():
        # Norms that are one and biases that are zero could be left out unseen.
        for name, tensor in theirs.named_parameters():
            if tensor.ndim == 1 or name.endswith("bias"):
                tensor.add_(0.1 * torch.randn(tensor.shape))
        for name, buffer in theirs.named_buffers():
            if "e_score_correction_bias" in name:
                buffer.copy_(0.1 * torch.randn(buffer.shape))
    folder = tmp_path_factory.mktemp("theirs")
    theirs.save_pretrained(folder)
    hub = saved_tensors(folder)
    ours = family_of(case.ours).build(case.ours)
    return Pair(ours=ours, theirs=theirs, hub=hub, used=load_from_hub(ours, hub))


def tokens(rows: int = 3, length: int = LENGTH) -> Tensor:
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(5))


def holed_mask(rows: int = 3, length: int = LENGTH - 1) -> Tensor:
    """Which targets count."""
    return (torch.rand(rows, length, generator=torch.Generator().manual_seed(6)) < 0.8).float()


def assert_gradients_equal(ours: Decoder, theirs: dict[str, Tensor]) -> None:
    """Each of the hub's tensors by itself: an expert's error would drown in the norm of all experts."""
    grads = gradients(ours)
    for entry in family_of(ours.config).tensors(ours.config):
        if not set(entry.ours) <= set(grads):
            assert entry.ours[0].endswith("router.bias"), entry.ours
            continue
        parts = to_theirs(entry, [grads[name] for name in entry.ours])
        for theirs_name, part in zip(entry.theirs, parts, strict=True):
            expected = theirs[theirs_name]
            assert (part - expected).norm() <= TOLERANCE * expected.norm(), theirs_name


def test_every_tensor_of_the_hub_is_ours(pair: Pair) -> None:
    assert pair.used == set(pair.hub)


def test_logits_are_equal(pair: Pair) -> None:
    with torch.no_grad():
        ours, theirs = pair.ours.logits(tokens()), pair.theirs(tokens(), use_cache=False).logits
    assert theirs.std() > 0.3  # small logits would be close to anything
    assert (ours - theirs).abs().max() < TOLERANCE


@pytest.mark.parametrize("name", ["gpt_oss", "mistral_window", "qwen2_window"])
def test_windows_over_several_blocks_are_equal(name: str, tmp_path: Path) -> None:
    # Longer than the blocks in which a window is computed, with a last one that is not full.
    case = FAMILY_CASES[name]
    ours = laid_out(case.ours)
    theirs, long = loaded(exported(ours, tmp_path)), tokens(rows=2, length=201)
    with torch.no_grad():
        difference = ours.logits(long) - theirs(long, use_cache=False).logits
    assert difference.abs().max() < TOLERANCE


def test_loss_and_every_gradient_are_equal(pair: Pair) -> None:
    pair.ours.zero_grad()
    pair.theirs.zero_grad()
    mask = holed_mask()
    sums = pair.ours(tokens()[:, :-1], tokens()[:, 1:], mask)
    loss = sums.lm / mask.sum()
    loss.backward()
    labels = tokens()
    labels[:, 1:][mask == 0] = -100
    expected = pair.theirs(tokens(), labels=labels, use_cache=False).loss
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=TOLERANCE)
    assert_gradients_equal(pair.ours, hub_names(gradients(pair.theirs), family=pair.ours.config.family))


def test_routers_choose_the_same_experts(pair: Pair) -> None:
    ours: list[dict[int, float]] = []
    theirs: list[dict[int, float]] = []

    def note(kept: list[dict[int, float]], experts_tk: Tensor, weights_tk: Tensor) -> None:
        rows = zip(experts_tk.tolist(), weights_tk.tolist(), strict=True)
        kept += [dict(zip(experts, weights, strict=True)) for experts, weights in rows]

    hooks = [
        module.register_forward_hook(lambda _m, _x, routing: note(ours, routing.experts_tk, routing.weights_tk))
        for module in pair.ours.modules()
        if isinstance(module, TopKRouter)
    ]
    hooks += [
        module.register_forward_hook(lambda _m, _x, out: note(theirs, out[2], out[1]))
        for name, module in pair.theirs.named_modules()
        if name.endswith(("mlp.gate", "mlp.router"))
    ]
    with torch.no_grad():
        pair.ours.logits(tokens())
        pair.theirs(tokens(), use_cache=False)
    for hook in hooks:
        hook.remove()
    mixture_layers = sum(pair.ours.config.is_moe_layer(layer) for layer in range(4))
    assert len(ours) == len(theirs) == mixture_layers * tokens().numel()
    for one, other in zip(ours, theirs, strict=True):
        assert set(one) == set(other)
        assert one == pytest.approx(other, rel=1e-5)
    # Every expert is somebody's choice, or a wrong order of experts would pass.
    assert {expert for one in ours for expert in one} == (set(range(8)) if mixture_layers else set())


def laid_out(config: ModelConfig) -> Decoder:
    """The model as a run on one rank has it, filled so that no tensor is like another."""
    layout = Layout(dp_replicate=1, dp_shard=1)
    (model,) = build_parallel(config, layout, Keeping(), device=torch.device("cpu"), seed=0).stages
    randomise(model, seed=0)
    return model.eval()


class Saved:
    """A state of nothing but tensors."""

    step = 7

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors

    def tensors(self) -> dict[str, Tensor]:
        return self._tensors

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        raise NotImplementedError


def exported(model: Decoder, folder: Path, *, dtype: Any = "fp32") -> Path:
    """The Hugging Face folder of a checkpoint of `model`."""
    checkpointer = Checkpointer(folder / "checkpoints", CheckpointConfig(), Alone(), configuration={})
    checkpointer.save(Saved(model_tensors(model)))
    checkpointer.finish()
    tokenizer = train_tokenizer(["Before sunrise the light comes from below.", "def f(x):\n    return x + 12345"], 300)
    tokenizer.save(str(folder / "tokenizer.json"))
    end = tokenizer.token_to_id(END_OF_DOCUMENT)
    described = ExportedTokenizer(
        file=folder / "tokenizer.json", end_of_document=END_OF_DOCUMENT, end_of_document_id=end
    )
    output = folder / "exported"
    assert export(model.config, folder / "checkpoints", output, described, dtype=dtype) == 7
    return output


def loaded(folder: Path, **options: Any) -> PreTrainedModel:
    """What transformers makes of an exported folder; nothing that holds a number may be missing from it."""
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", output_loading_info=True, **options
    )
    assert isinstance(model, PreTrainedModel)
    # Without shared experts transformers still has their matrices, of no columns.
    assert not [name for name in report["missing_keys"] if model.get_parameter(name).numel()]
    assert not report["mismatched_keys"]
    assert not report["unexpected_keys"]
    return model.eval()


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("case", ALL_EXPORTED.values(), ids=ALL_EXPORTED)
def test_exported_model_is_the_same_to_the_bit(case: Case, tmp_path: Path) -> None:
    ours = laid_out(case.ours)
    theirs = loaded(exported(ours, tmp_path))
    assert type(theirs) is case.theirs
    hub = hub_names(theirs.state_dict(), family=case.ours.family)
    names = family_of(case.ours).names(case.ours)
    for name, tensor in (dict(ours.named_parameters()) | dict(ours.named_buffers())).items():
        assert torch.equal(ours_from_hub(names, name, hub), tensor), name
    with torch.no_grad():
        difference = ours.logits(tokens()) - theirs(tokens(), use_cache=False).logits
    assert difference.abs().max() < TOLERANCE


@pytest.mark.parametrize("case", ALL_EXPORTED.values(), ids=ALL_EXPORTED)
def test_exported_configuration_is_what_its_users_write(case: Case, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(exported(laid_out(case.ours), tmp_path))
    # What says nothing about the computation, or nothing about this model.
    passed_over = {"initializer_range", "architectures", "dtype", "bos_token_id", "eos_token_id", "pad_token_id"}
    if case.ours.feed_forward.kind == "dense":
        passed_over |= EXPERTS.keys() | ROUTER.keys()
    exported_values, expected = config.to_dict(), case.config.to_dict()
    # It may say more of the rotary embedding than its users must.
    assert exported_values.pop("rope_parameters").items() >= expected.pop("rope_parameters").items()
    for key in expected.keys() - passed_over - {"transformers_version", "_name_or_path"}:
        assert exported_values[key] == expected[key], key


@pytest.mark.parametrize("case", READ.values(), ids=READ)
def test_configuration_of_transformers_is_read(case: Case, tmp_path: Path) -> None:
    case.config.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values["model_type"] = case.config.model_type
    read = family_of_config_json(values).read_config_json(values)
    # The width of the first weights is no part of the model.
    assert read.model_copy(update={"initializer_range": case.ours.initializer_range}) == case.ours


def test_weights_come_in_and_go_out_to_the_bit(pair: Pair) -> None:
    """What is read from the hub's files is what they hold, put back into their layout."""
    tensors = dict(pair.ours.named_parameters()) | dict(pair.ours.named_buffers())
    for entry in family_of(pair.ours.config).tensors(pair.ours.config):
        parts = to_theirs(entry, [tensors[name] for name in entry.ours])
        for name, part in zip(entry.theirs, parts, strict=True):
            assert torch.equal(part, pair.hub[name]), name


@pytest.mark.usefixtures("known_mtp_layers")
def test_export_in_bfloat16_keeps_the_bias_of_the_router_in_fp32(tmp_path: Path) -> None:
    ours = laid_out(MTP.ours)
    folder = exported(ours, tmp_path, dtype="bf16")
    names, hub = family_of(MTP.ours).names(MTP.ours), saved_tensors(folder)
    for name, tensor in (dict(ours.named_parameters()) | dict(ours.named_buffers())).items():
        expected = tensor if name.endswith("router.bias") else tensor.bfloat16()
        found = ours_from_hub(names, name, hub)
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected), name
    theirs = loaded(folder, dtype="auto")
    assert theirs.lm_head.weight.dtype == torch.bfloat16
    bias = theirs.get_buffer("model.layers.1.mlp.gate.e_score_correction_bias")
    assert torch.equal(bias, ours.get_buffer("layers.1.feed_forward.router.bias"))


@pytest.mark.usefixtures("known_mtp_layers")
@pytest.mark.parametrize("case", [MTP, FAMILY_MTP], ids=["deepseek_v3", "glm4_moe"])
def test_multi_token_prediction_is_equal(case: Case, tmp_path: Path) -> None:
    # transformers has these layers for speculative decoding: it reads them from our export by its own rules.
    ours = laid_out(case.ours)
    main = loaded(exported(ours, tmp_path))
    ahead = MtpModel.from_pretrained(main).eval()
    assert len(ahead.layers) == 2

    x, mask = tokens(), holed_mask()
    trunk = main.model(x, use_cache=False).last_hidden_state
    hidden, expected_logits = trunk, []
    for depth in (1, 2):
        rows = LENGTH - depth
        positions = torch.arange(rows).unsqueeze(0)
        hidden = ahead.forward_layer(depth - 1, hidden[:, :rows], positions, None, input_ids=x[:, depth:])
        expected_logits.append(ahead._project_to_logits(hidden))
    for our_logits, expected in zip(ours.mtp_logits(x), expected_logits, strict=True):
        assert our_logits.shape == expected.shape
        assert (our_logits - expected).abs().max() < TOLERANCE

    # The loss of section 2.2.2: 0.3 times the mean over depths of theirs, each over the targets that exist.
    sums = ours(x[:, :-1], x[:, 1:], mask)
    loss = sums.lm / mask.sum() + 0.3 * (sums.mtp / torch.stack([mask[:, depth:].sum() for depth in (1, 2)])).mean()
    loss.backward()
    expected_loss = mean_loss(main.lm_head(trunk), x, mask, depth=0)
    for depth, logits in enumerate(expected_logits, start=1):
        expected_loss = expected_loss + 0.3 / 2 * mean_loss(logits, x, mask, depth=depth)
    expected_loss.backward()
    assert loss.item() == pytest.approx(expected_loss.item(), rel=TOLERANCE)
    hub = hub_names(gradients(main)) | mtp_hub_names(gradients(ahead), num_hidden_layers=4)
    assert_gradients_equal(ours, hub)


def mean_loss(logits_bsv: Tensor, tokens_bs: Tensor, mask_bs: Tensor, *, depth: int) -> Tensor:
    """Cross-entropy of token i + depth + 1 at position i, over the targets that the mask keeps."""
    targets = tokens_bs[:, depth + 1 :].masked_fill(mask_bs[:, depth:] == 0, -100)
    return F.cross_entropy(logits_bsv[:, : targets.shape[1]].flatten(0, 1), targets.flatten(), ignore_index=-100)


def test_copies_of_embedding_and_head_are_as_on_the_hub(tmp_path: Path) -> None:
    hub = saved_tensors(exported(laid_out(MTP.ours), tmp_path))
    for layer in (4, 5):
        assert torch.equal(hub[f"model.layers.{layer}.embed_tokens.weight"], hub["model.embed_tokens.weight"])
        assert torch.equal(hub[f"model.layers.{layer}.shared_head.head.weight"], hub["lm_head.weight"])


def test_tokenizer_and_generation_settings_load(tmp_path: Path) -> None:
    folder = exported(laid_out(CASES["llama3"].ours), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "Before sunrise, at 12345 m:\n    light — ünïcode"
    ours = train_tokenizer(["Before sunrise the light comes from below.", "def f(x):\n    return x + 12345"], 300)
    assert tokenizer(text)["input_ids"] == ours.encode(text).ids
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.eos_token == END_OF_DOCUMENT
    assert tokenizer.eos_token_id == ours.token_to_id(END_OF_DOCUMENT)
    assert GenerationConfig.from_pretrained(folder).eos_token_id == tokenizer.eos_token_id
    assert AutoConfig.from_pretrained(folder).eos_token_id == tokenizer.eos_token_id
