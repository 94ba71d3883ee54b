"""Lets parts of the model compute their activations again in the backward pass, by torch's checkpointing."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    apply_activation_checkpointing,
    checkpoint_wrapper,
)
from torch.utils.checkpoint import (
    CheckpointPolicy,
    _CachedTorchDispatchMode,
    _CachingTorchDispatchMode,
)

from firstlight.config.recompute import (
    FullRecompute,
    LayerRange,
    ModuleRecompute,
    NoRecompute,
    Recompute,
    SelectiveRecompute,
)
from firstlight.models.decoder import Decoder

_OPERATORS: Mapping[str, frozenset[str]] = {
    "products": frozenset(
        f"aten::{name}" for name in ("mm", "addmm", "bmm", "baddbmm", "linear", "_grouped_mm", "_scaled_mm_v2")
    )
    | {"firstlight::fp8_product", "firstlight::weighted_row_sum"},
    "attention": frozenset(f"aten::_scaled_dot_product_{name}_attention" for name in ("flash", "efficient", "cudnn"))
    | {
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_scaled_dot_product_fused_attention_overrideable",
        "firstlight::causal_attention",
    },
    "communication": frozenset(
        f"_c10d_functional::{name}"
        for name in ("all_gather_into_tensor", "reduce_scatter_tensor", "all_reduce", "all_to_all_single")
    ),
}
"""The operators of each kind, by the names of their default overloads."""

_CHOICES = frozenset({"aten::topk"})
"""A router's choice is small, and kept wherever operators are told apart."""

_MODULE_NAMES: Mapping[str, tuple[str, ...]] = {"latent_up_projection": ("q_b_proj", "kv_b_proj")}
"""What a name of the configuration stands for, where it is not the module's own."""


class KeptOperators:
    """Which results are kept while a layer computes forward; a policy as torch's checkpointing asks for one.

    Inside of the modules that `watch` was given, only results of communication are.
    """

    def __init__(self, kinds: tuple[str, ...]) -> None:
        self.candidates = _CHOICES.union(*(_OPERATORS[kind] for kind in kinds))
        self._always = _CHOICES | (_OPERATORS["communication"] if "communication" in kinds else frozenset())
        self._depth = 0

    def watch(self, module: nn.Module) -> None:
        """Keep no products and no attention inside of `module`."""
        module.register_forward_pre_hook(self._enter)
        # Recomputation ends by an exception as soon as it has what it needs, inside of a module perhaps.
        module.register_forward_hook(self._leave, always_call=True)

    def __call__(self, _context: object, operator: Any, *_args: object, **_others: object) -> CheckpointPolicy:
        """What happens to the result of `operator`."""
        is_kept = operator.name() in (self._always if self._depth else self.candidates)
        return CheckpointPolicy.MUST_SAVE if is_kept else CheckpointPolicy.PREFER_RECOMPUTE

    def _enter(self, _module: nn.Module, _inputs: object) -> None:
        self._depth += 1

    def _leave(self, _module: nn.Module, _inputs: object, _output: object) -> None:
        self._depth -= 1


class _Keeping(_CachingTorchDispatchMode):
    """torch's mode for the forward pass, but blind to operators that are never kept.

    torch counts each operator, and refuses a recomputation that needs one more of any kind. FSDP's hooks round the
    experts, inside of a layer, run other operators then than in the forward pass, where more or less was gathered.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() in self.policy_fn.candidates:
            return super().__torch_dispatch__(func, types, args, kwargs)  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


class _Reusing(_CachedTorchDispatchMode):
    """The same for the recomputation."""

    def __init__(self, policy: KeptOperators, storage: Any) -> None:
        super().__init__(None, storage)
        self._candidates = policy.candidates

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() in self._candidates:
            return super().__torch_dispatch__(func, types, args, kwargs)  # type: ignore[no-untyped-call]
        return func(*args, **(kwargs or {}))


def _contexts(policy: KeptOperators) -> tuple[_Keeping, _Reusing]:
    """For one call of a wrapped module, as torch's `create_selective_checkpoint_contexts` makes them."""
    storage: dict[Any, dict[int, Any]] = defaultdict(dict)
    return _Keeping(policy, storage), _Reusing(policy, storage)


def apply_recompute(model: Decoder, config: Recompute) -> None:
    """Wrap what `config` names. The parameters' names get a part more, which `parallel.apply` takes out again."""
    match config:
        case NoRecompute():
            return
        case FullRecompute():
            _wrap(model, layers_in(model, config.layers), _communication(config))
        case ModuleRecompute():
            layers = layers_in(model, config.layers)
            _wrap(model, list(_modules(layers, config.modules)), _communication(config))
        case SelectiveRecompute():
            layers, policy = layers_in(model, config.layers), KeptOperators(config.kept)
            for module in _modules(layers, config.repeated_in):
                policy.watch(module)
            _wrap(model, layers, policy)


def layers_in(model: Decoder, layers: LayerRange) -> list[nn.Module]:
    """The decoder layers that are here and in the range, and those of multi-token prediction, numbered after them."""
    numbered = {int(name): layer for name, layer in model.layers.named_children()}
    first = model.config.num_hidden_layers
    numbered |= {first + int(name): layer for name, layer in model.mtp.named_children()}
    return [layer for number, layer in numbered.items() if layers.contains(number)]


def _modules(layers: list[nn.Module], names: tuple[str, ...]) -> Iterator[nn.Module]:
    wanted = {own for name in names for own in _MODULE_NAMES.get(name, (name,))}
    for layer in layers:
        for name, module in layer.named_modules():
            if name.rpartition(".")[2] in wanted:
                yield module


def _communication(config: FullRecompute | ModuleRecompute) -> KeptOperators | None:
    return KeptOperators(("communication",)) if config.communication == "kept" else None


def _wrap(model: Decoder, modules: list[nn.Module], policy: KeptOperators | None) -> None:
    """With a policy each operator passes through Python in the forward pass; without one nothing does."""
    chosen = {id(module) for module in modules}
    # A forward pass draws no random numbers.
    wrapper = partial(checkpoint_wrapper, preserve_rng_state=False)
    if policy is not None:
        wrapper = partial(wrapper, context_fn=partial(_contexts, policy))
    apply_activation_checkpointing(model, checkpoint_wrapper_fn=wrapper, check_fn=lambda module: id(module) in chosen)
