"""What a forward and a backward keep in memory: the model's own code, run on the meta device."""

import copy
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import finalize

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from rlvr.config import LoraConfig
from rlvr.learner.lora import add_adapters
from rlvr.learner.model_folder import empty_model
from rlvr.plan.shape import Shape


@dataclass(frozen=True)
class Activations:
    """Bytes of a micro-batch on its way through the layers."""

    kept: float  # from forward to backward, all layers
    working: float  # beside these, at the worst moment


@cache
def activations(
    shape: Shape,
    tokens: int,
    *,
    dtype: str,
    backward: bool,
    checkpointing: bool,
    padded: bool,
    rank: int = 0,
    targets: tuple[str, ...] = (),
) -> Activations:
    """Of a packed micro-batch; ``padded`` is attention without a GPU, on copies of all heads.

    With a ``rank`` adapters on the ``targets`` alone have gradients.
    """
    lora = LoraConfig(rank=rank, targets=list(targets))
    few = [
        _run(shape, layers, tokens, getattr(torch, dtype), backward, checkpointing, padded, lora)
        for layers in (1, 2)
    ]
    a_layer = few[1].kept - few[0].kept
    return Activations(few[1].kept + (shape.layers - 2) * a_layer, few[1].working)


def _run(
    shape: Shape,
    layers: int,
    tokens: int,
    dtype: torch.dtype,
    backward: bool,
    checkpointing: bool,
    padded: bool,
    lora: LoraConfig,
) -> Activations:
    config = copy.deepcopy(shape.config)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = (config.layer_types * layers)[:layers]
    model = empty_model(config, dtype=dtype, attn_implementation=_NAMES[padded])
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if lora.rank:
        add_adapters(model, lora, seed=0, meta=True)
    model.train()
    live = Live(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    for p in trained:  # a gradient goes into DeepSpeed's buffers at once
        p.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    with torch.device("meta"), torch.set_grad_enabled(backward), live:
        embedded = torch.empty(1, tokens, shape.hidden, dtype=dtype)
        embedded.requires_grad_(backward and not lora.rank)
        mask = torch.empty(1, 1, 1, 1)  # which attention here does not read, so none is made
        out = model.base_model(inputs_embeds=embedded, attention_mask=mask, use_cache=False)[0]
        kept = live.now
        if backward:
            out.backward(torch.empty_like(out))
    return Activations(kept, live.peak - kept)


class Live(TorchDispatchMode):
    """Counts the bytes of the storages that are made while it is active, until they are freed."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = WeakIdKeyDictionary()
        for tensor in (*model.parameters(), *model.buffers()):
            self._known[tensor.untyped_storage()] = True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._known:
            self._known[storage] = True
            self._add(storage.nbytes())
            finalize(storage, self._add, -storage.nbytes())

    def _add(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)


class _FusedAttention(torch.autograd.Function):
    """The memory of fused attention: its inputs, its output and a number for every query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        normaliser = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, normaliser)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors[:3])


def _packed(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **_: object
) -> tuple[Tensor, None]:
    return _FusedAttention.apply(query, key, value).transpose(1, 2), None


def _padded(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **_: object
) -> tuple[Tensor, None]:
    repeat = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(repeat, 1).clone() for x in (key, value))
    out = _FusedAttention.apply(query.clone(), key, value)
    return out.transpose(1, 2).clone(memory_format=torch.contiguous_format), None


_NAMES = {False: "rlvr_plan_packed", True: "rlvr_plan_padded"}
for _name, _function in zip(_NAMES.values(), (_packed, _padded), strict=True):
    AttentionInterface.register(_name, _function)
    AttentionMaskInterface.register(_name, lambda *_, **__: None)
