"""A model class of the user's own is run from the folder that is named, checked, and told by a digest of its code."""

import shutil
from pathlib import Path

import pytest
import torch

from firstlight.base.errors import InputError
from firstlight.compat.translation import translate
from firstlight.config.model import DenseFeedForward, GroupedQueryAttention, ModelConfig
from firstlight.models.registered import FILE, Registered, register

EXAMPLE = Path(__file__).parents[3] / "examples" / "own-model"
LLAMA = ModelConfig(
    family="llama",
    vocab_size=96,
    hidden_size=32,
    num_hidden_layers=2,
    max_position_embeddings=64,
    attention=GroupedQueryAttention(num_attention_heads=4, num_key_value_heads=2, head_dim=8),
    feed_forward=DenseFeedForward(intermediate_size=48),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(EXAMPLE, tmp_path / "own", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "own"


def built(registered: Registered) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: parameter.shape for name, parameter in registered.build(LLAMA).named_parameters()}


def test_the_example_has_parameters_of_its_own(folder: Path) -> None:
    registered = register(folder)
    own = {name for name in built(registered) if "gain" in name}
    assert own == {f"layers.{n}.{part}_gain.weight" for n in (0, 1) for part in ("attention", "feed_forward")}
    assert registered.facts() == {
        "folder": str(folder),
        "class": "WeighedDecoder",
        "sha256": registered.sha256,
    }


def test_the_digest_is_that_of_all_its_code(folder: Path) -> None:
    digest = register(folder).sha256
    (folder / "notes.txt").write_text("no code")
    assert register(folder).sha256 == digest
    gain = folder / "gain.py"
    gain.write_text(gain.read_text() + "\n# changed\n")
    assert register(folder).sha256 != digest


def test_code_is_run_again_when_it_has_changed(folder: Path) -> None:
    before = built(register(folder))
    gain = folder / "gain.py"
    gain.write_text(gain.read_text().replace("torch.empty(width)", "torch.empty(width + 1)"))
    assert built(register(folder)) != before


def test_a_class_stands_for_its_family_alone(folder: Path) -> None:
    with pytest.raises(InputError, match=r"model.family = mistral, but the class in .* stands for llama"):
        register(folder).build(LLAMA.model_copy(update={"family": "mistral"}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no firstlight_model.py"),
        ("x = 1\n", "MODEL is None; it must be"),
        ("MODEL = 'llama'\n", "MODEL is 'llama'; it must be"),
        ("{imports}MODEL = OwnModel(family='lama', decoder=Decoder)\n", "family = 'lama' is none; use one of"),
        ("{imports}MODEL = OwnModel(family='llama', decoder=int)\n", "is no class made from"),
    ],
)
def test_what_cannot_be_taken_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    imports = "from firstlight.models.registered import OwnModel\nfrom firstlight.models.decoder import Decoder\n"
    if text is not None:
        (tmp_path / FILE).write_text(text.format(imports=imports))
    with pytest.raises(InputError, match=message):
        register(tmp_path)


def test_a_file_of_mindformers_may_name_it(tmp_path: Path) -> None:
    old = tmp_path / "old.yaml"
    old.write_text(
        "run_mode: train\nuse_legacy: False\nrunner_config: {epochs: 1, batch_size: 1}\n"
        "lr_schedule: {type: ConstantWarmUpLR, learning_rate: 1.e-3, warmup_steps: 1}\noptimizer: {type: AdamW}\n"
        "model: {model_config: {architectures: [WeighedForCausalLM], hidden_size: 32, num_layers: 2, num_heads: 4, "
        "intermediate_size: 64, seq_length: 32, vocab_size: 300}}\n"
        "train_dataset: {data_loader: {type: BlendedMegatronDatasetDataLoader, sizes: [8, 0, 0], "
        "config: {seq_length: 32, data_path: [1, data/a]}}}\n"
    )
    with pytest.raises(InputError, match="WeighedForCausalLM"):
        translate(old)
    assert translate(old, registered={"WeighedForCausalLM": "llama"}).values["model"]["family"] == "llama"
