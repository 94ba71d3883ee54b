"""Models of other packages with the sizes of a `model` section, and their losses as those packages take them."""

from typing import Any

from torch import Tensor, nn


def transformers_model(model: dict[str, Any], *, recomputes: bool) -> nn.Module:
    """Hugging Face's Llama or DeepSeek-V3, attention and experts in the way that it chooses by itself."""
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, LlamaConfig, LlamaForCausalLM

    attention, feed_forward = dict(model["attention"]), dict(model["feed_forward"])
    same = ("vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings")
    sizes = {name: model[name] for name in same} | {"use_cache": False, "tie_word_embeddings": False}
    built: nn.Module
    if feed_forward.pop("kind") == "dense":
        heads = attention["num_attention_heads"]
        built = LlamaForCausalLM(
            LlamaConfig(**sizes, **feed_forward, num_attention_heads=heads, num_key_value_heads=heads)
        )
    else:
        attention.pop("kind")
        router = feed_forward.pop("router")
        built = DeepseekV3ForCausalLM(
            DeepseekV3Config(**sizes, **attention, **feed_forward, **router, norm_topk_prob=True, num_mtp_layers=0)
        )
    if recomputes:
        built.gradient_checkpointing_enable()
    return built


def transformers_loss(model: nn.Module, tokens: Tensor, labels: Tensor) -> Tensor:
    """The model's own, of targets that are shifted already."""
    loss: Tensor = model(input_ids=tokens, labels=labels, shift_labels=labels).loss
    return loss


def litgpt_model(model: dict[str, Any]) -> nn.Module:
    """litgpt's Llama, with the initial weights of its pretraining."""
    from lightning import Fabric
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.pretrain import initialize_weights

    sizes = Config(
        name="side-by-side",
        block_size=model["max_position_embeddings"],
        vocab_size=model["vocab_size"],
        padded_vocab_size=model["vocab_size"],
        n_layer=model["num_hidden_layers"],
        n_head=model["attention"]["num_attention_heads"],
        n_embd=model["hidden_size"],
        intermediate_size=model["feed_forward"]["intermediate_size"],
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
        norm_eps=1e-6,
    )
    built = GPT(sizes)
    initialize_weights(Fabric(accelerator="cpu", devices=1), built, n_layer=sizes.n_layer, n_embd=sizes.n_embd)
    return built


def litgpt_loss(model: nn.Module, tokens: Tensor, labels: Tensor) -> Tensor:
    """As litgpt's pretraining takes it."""
    from litgpt.utils import chunked_cross_entropy

    loss: Tensor = chunked_cross_entropy(model(tokens), labels)
    return loss
