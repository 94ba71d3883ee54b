"""megatron-core's dense model on the CPU: what it asks of CUDA is answered by stand-ins. Its trainer is not used."""

import os
import tempfile
import warnings
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


def _pretend_cuda() -> None:
    """A device number, and states of random numbers: all that the dense model asks for."""
    torch.cuda.current_device = lambda: "cpu"
    torch.cuda.is_initialized = lambda: True
    torch.cuda.get_rng_state = lambda *_args, **_more: torch.get_rng_state()
    torch.cuda.set_rng_state = lambda state, *_args, **_more: torch.set_rng_state(state)
    torch.cuda.manual_seed = lambda seed: torch.manual_seed(seed)
    torch.cuda.nvtx.range_push = lambda *_args: None
    torch.cuda.nvtx.range_pop = lambda *_args: None


def megatron_model(model: dict[str, Any]) -> nn.Module:
    """GPTModel of plain PyTorch modules ("local"): rotary embedding, SwiGLU, RMSNorm, separate output matrix."""
    _pretend_cuda()
    warnings.simplefilter("ignore")
    from megatron.core import parallel_state, tensor_parallel
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.tensor_parallel import random
    from megatron.core.transformer import TransformerConfig

    random._get_cuda_rng_state = lambda *_args, **_more: torch.get_rng_state()
    random._set_cuda_rng_state = lambda state, *_args, **_more: torch.set_rng_state(state)
    store = dist.FileStore(os.path.join(tempfile.mkdtemp(), "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    config = TransformerConfig(
        num_layers=model["num_hidden_layers"],
        hidden_size=model["hidden_size"],
        num_attention_heads=model["attention"]["num_attention_heads"],
        ffn_hidden_size=model["feed_forward"]["intermediate_size"],
        gated_linear_unit=True,
        activation_func=F.silu,
        add_bias_linear=False,
        normalization="RMSNorm",
        layernorm_epsilon=1e-6,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        use_cpu_initialization=True,
        gradient_accumulation_fusion=False,
        params_dtype=torch.float32,
        pipeline_dtype=torch.float32,
    )
    return GPTModel(
        config=config,
        transformer_layer_spec=get_gpt_layer_local_spec(normalization="RMSNorm"),
        vocab_size=model["vocab_size"],
        max_sequence_length=model["max_position_embeddings"],
        share_embeddings_and_output_weights=False,
        position_embedding_type="rope",
    )


def megatron_loss(model: nn.Module, tokens: Tensor, labels: Tensor) -> Tensor:
    """The model's own loss of each token, averaged; True in the mask is what a position may not see."""
    length = tokens.shape[1]
    positions = torch.arange(length).expand_as(tokens)
    mask = torch.ones(1, 1, length, length, dtype=torch.bool).triu(1)
    losses: Tensor = model(tokens, positions, mask, labels=labels)
    return losses.mean()
