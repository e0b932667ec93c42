"""Adapters of low rank (PEFT's) on a model whose own weights are frozen."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlvr.choice import nearest
from rlvr.config import LoraConfig
from rlvr.errors import ConfigError

_NAME = "default"  # of the one adapter that PEFT is to know
# A and B, by their names in the layer whose weight they change
PARTS = f"lora_A.{_NAME}.weight", f"lora_B.{_NAME}.weight"


@dataclass(frozen=True)
class Adapter:
    """What is added to a weight [out, in]: scale · B A."""

    a: nn.Parameter  # [rank, in]
    b: nn.Parameter  # [out, rank]
    scale: float

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        return self.a, self.b

    def added_to(self, weight: Tensor) -> Tensor:
        """The weight of the same function without an adapter; A, B and ``weight`` are whole."""
        return merged(weight, self.a.detach(), self.b.detach(), self.scale)


def merged(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """W + scale · B A, computed in float32 from what the forward multiplies by, as W is typed."""
    a, b = (x.to(weight.dtype).float() for x in (a, b))
    return (weight.float() + scale * (b @ a)).to(weight.dtype)


def weights_of(network: nn.Module) -> dict[str, tuple[nn.Parameter, Adapter | None]]:
    """The weights by the names of the model's files, each with its adapter if it has one."""
    named = dict(network.named_parameters())  # tied weights appear once
    weights: dict[str, tuple[nn.Parameter, Adapter | None]] = {}
    for name, p in named.items():
        layer, _, rest = name.rpartition(".base_layer.")
        if layer and rest == "weight":
            adapted: Any = network.get_submodule(layer)
            a, b = (named[f"{layer}.{part}"] for part in PARTS)
            weights[f"{layer}.weight"] = p, Adapter(a, b, adapted.scaling[_NAME])
        elif not name.endswith(PARTS):
            weights[f"{layer}.{rest}" if layer else name] = p, None
    return weights


def add_adapters(network: nn.Module, lora: LoraConfig, seed: int, *, meta: bool = False) -> None:
    """Put an adapter on every target, and freeze all else; B is 0, so the function is the same.

    On ``meta`` they are shapes without memory.
    """
    from peft import inject_adapter_in_model

    targets = targets_of(linear_layers(network), lora)
    with torch.random.fork_rng(devices=[]):  # they are drawn on the CPU
        torch.default_generator.manual_seed(seed)
        inject_adapter_in_model(peft_config(lora, targets), network, _NAME, meta)


@contextmanager
def adapters_off(network: nn.Module) -> Iterator[None]:
    """Within, the network is the one that the adapters were put on."""
    layers: list[Any] = [m for m in network.modules() if hasattr(m, "lora_A")]
    for layer in layers:  # PEFT's own switch would also take the gradients from the adapters
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


class Base:
    """The policy that a run with adapters began with: ``engine``'s, with its adapters off."""

    def __init__(self, engine: Any, network: nn.Module) -> None:
        self._engine, self._network = engine, network

    def __call__(self, *arguments: Any) -> Any:
        with adapters_off(self._network):
            return self._engine(*arguments)


def linear_layers(network: nn.Module) -> dict[str, nn.Linear]:
    """Those of the model's blocks, by their full names."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and any(part.isdigit() for part in name.split("."))
    }


def targets_of(layers: Mapping[str, Any], lora: LoraConfig) -> dict[str, Any]:
    """Those of ``layers`` that get an adapter. Raises ConfigError for a target that is none."""
    if not layers:
        raise ConfigError("learner.lora.rank: the blocks of the model have no linear layers")
    if not lora.targets:
        return dict(layers)
    found: dict[str, Any] = {}
    within = {name: re.sub(r".*\.\d+\.", ".", name) for name in layers}  # their blocks
    for target in lora.targets:
        own = {n: layer for n, layer in layers.items() if within[n].endswith(f".{target}")}
        if not own:
            known = list(dict.fromkeys(name.rpartition(".")[2] for name in layers))
            raise ConfigError(
                f"learner.lora.targets: the blocks of the model have no linear layer {target}. "
                f"{nearest(target, known)}"
            )
        found |= own
    return found


def peft_config(lora: LoraConfig, targets: Mapping[str, Any]) -> Any:
    """What PEFT calls these adapters."""
    from peft import LoraConfig as PeftConfig

    alpha: Any = lora.alpha  # declared as a whole number there, and a factor like any other
    return PeftConfig(
        r=lora.rank, lora_alpha=alpha, target_modules=sorted(targets), task_type="CAUSAL_LM"
    )
