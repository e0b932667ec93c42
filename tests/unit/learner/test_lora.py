"""Adapters: which layers have them, what is frozen, and what the weights are with them."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from rlvr.config import LearnerConfig, LoraConfig, ModelConfig
from rlvr.errors import ConfigError
from rlvr.learner.lora import Base, linear_layers, merged, targets_of, weights_of
from rlvr.learner.policy import Policy, load_policy
from rlvr.types import Packing

LORA = LoraConfig(rank=3, alpha=12.0)
CPU = torch.device("cpu")


def loaded(folder: str, lora: LoraConfig = LORA, seed: int = 7) -> Policy:
    learner = LearnerConfig(lora=lora, logits_mib=1)
    return load_policy(ModelConfig(folder, dtype="float32"), learner, 0.7, CPU, seed=seed)


def drawn(policy: Policy) -> Policy:
    """With adapters that change the function."""
    with torch.no_grad():
        for name, p in policy.named_parameters():
            if "lora_B" in name:
                p.normal_()
    return policy


@pytest.mark.parametrize("tied", [True, False])
def test_with_fresh_adapters_the_model_is_itself_and_all_else_is_frozen(tiny_model, tied):
    policy, plain = loaded(tiny_model(tied)), loaded(tiny_model(tied), LoraConfig())
    packing = Packing.of([torch.arange(3, 20)])
    assert torch.equal(policy.hidden(packing), plain.hidden(packing))
    trained = {n for n, p in policy.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in policy.named_parameters() if "lora_" in n}
    assert len(trained) == 2 * 2 * 7
    names = [name for name, _ in plain.model.named_parameters()]
    assert list(weights_of(policy.model)) == list(weights_of(plain.model)) == names


def test_a_seed_is_a_draw_and_no_other_draw_is_moved(tiny_model):
    first, again, other = (
        {n: p for n, p in loaded(tiny_model(True), seed=seed).named_parameters() if "lora_A" in n}
        for seed in (7, 7, 8)
    )
    assert all(torch.equal(first[n], again[n]) and first[n].std() > 0 for n in first)
    assert not any(torch.equal(first[n], other[n]) for n in first)
    before = torch.random.get_rng_state()
    loaded(tiny_model(True))
    assert torch.equal(before, torch.random.get_rng_state())


def test_merged_weights_are_pefts_own(tiny_model):
    """Names and values, by PEFT's own merge of the same adapters in float64."""
    policy = drawn(loaded(tiny_model(False)))
    network = AutoModelForCausalLM.from_pretrained(tiny_model(False), dtype=torch.float64)
    config = PeftConfig(r=3, lora_alpha=12, target_modules="all-linear")
    model = get_peft_model(network, config, autocast_adapter_dtype=False)
    own = dict(policy.model.named_parameters())
    with torch.no_grad():
        for name, p in network.named_parameters():
            if "lora_" in name:
                p.copy_(own[name])
    expected = dict(model.merge_and_unload().named_parameters())
    found = weights_of(policy.model)
    assert found.keys() == expected.keys()
    for name, (p, adapter) in found.items():
        assert (adapter is not None) == ("_proj" in name)
        actual = adapter.added_to(p.detach()) if adapter else p
        torch.testing.assert_close(actual.double(), expected[name], rtol=1e-6, atol=1e-6)


def test_a_merge_is_rounded_once():
    generator = torch.Generator().manual_seed(0)
    w, a, b = (torch.randn(s, generator=generator) for s in ((40, 30), (4, 30), (40, 4)))
    rounded = [x.bfloat16() for x in (w, a, b)]
    exact = rounded[0].double() + 0.25 * (rounded[2].double() @ rounded[1].double())
    found = merged(rounded[0], a, b, 0.25)  # A and B as the forward has them
    assert found.dtype == torch.bfloat16
    assert float((found != exact.bfloat16()).float().mean()) < 0.01  # ties of float32 alone


def test_the_reference_is_the_model_that_the_run_began_with(tiny_model):
    policy, plain = drawn(loaded(tiny_model(True))), loaded(tiny_model(True), LoraConfig())
    packing, index = Packing.of([torch.arange(3, 20)]), torch.arange(4, 15)
    arguments = packing, index, packing.input_ids[index + 1]
    (now, *_), _ = policy(*arguments)
    (reference, *_), _ = Base(policy, policy.model)(*arguments)
    (expected, *_), _ = plain(*arguments)
    assert torch.equal(reference, expected)
    assert float((now - expected).detach().abs().max()) > 0.1
    (after, *_), _ = policy(*arguments)
    assert torch.equal(now, after), "the adapters stay off"
    assert all(p.requires_grad for n, p in policy.named_parameters() if "lora_" in n)


def test_targets(tiny_model):
    layers = linear_layers(loaded(tiny_model(True), LoraConfig()).model)
    assert len(layers) == 14 and not any("lm_head" in name for name in layers)
    some = targets_of(layers, LoraConfig(4, targets=["q_proj", "mlp.down_proj"]))
    assert {name.rpartition(".")[2] for name in some} == {"q_proj", "down_proj"} and len(some) == 4
    for target in ("q_prj", "lm_head", "proj", "model.layers.0.self_attn.q_proj"):
        near = "'q_proj'" if target == "q_prj" else ""
        with pytest.raises(ConfigError, match=rf"no linear layer {target}\..*{near}"):
            targets_of(layers, LoraConfig(4, targets=[target]))
