"""The policy that the learner trains is the model that was saved, and nothing random."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from rlvr.config import LearnerConfig, ModelConfig
from rlvr.learner.policy import Policy, load_policy
from rlvr.types import Packing

TEMPERATURE = 0.7


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("model")
    config = Qwen3Config(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        attention_dropout=0.3,
    )
    Qwen3ForCausalLM(config).save_pretrained(path)
    return str(path)


def packed(sequences: list[tuple[list[int], list[int]]]) -> tuple[Packing, torch.Tensor]:
    """(prompt, response) pairs end to end, and where the responses' tokens lie."""
    packing = Packing.of([torch.tensor(p + r) for p, r in sequences])
    ends = zip(packing.cu_seqlens[1:].tolist(), sequences, strict=True)
    return packing, torch.cat([torch.arange(end - len(r), end) for end, (_, r) in ends])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_log_probabilities_are_the_saved_models_own(folder, checkpointing):
    """Off by one, a forgotten temperature, dropout or a leak between sequences would all show."""
    learner = LearnerConfig(gradient_checkpointing=checkpointing, logits_mib=1)
    model = ModelConfig(path=folder, dtype="float32")
    policy = load_policy(model, learner, TEMPERATURE, torch.device("cpu"))
    sequences = [
        (torch.randint(50, (p,)).tolist(), torch.randint(50, (r,)).tolist())
        for p, r in ((3, 5), (1, 1), (7, 2))
    ]
    packing, index = packed(sequences)
    target = packing.input_ids[index]
    (logp, entropy, _), hidden = policy(packing, index - 1, target)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    expected, spread = [], []
    for prompt, response in sequences:
        logits = plain(torch.tensor([prompt + response])).logits[0] / TEMPERATURE
        distribution = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1]
        expected.append(distribution[torch.arange(len(response)), response])
        spread.append(-(distribution.exp() * distribution).sum(-1))
    torch.testing.assert_close(logp, torch.cat(expected), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy, torch.cat(spread), rtol=1e-5, atol=1e-5)
    assert hidden.shape == (8, 32)
    again, _ = policy(packing, index - 1, target)
    assert torch.equal(logp, again[0]), "two forwards of the same policy differ"


def test_a_transform_of_the_logits_is_refused():
    config = Qwen3Config(vocab_size=8, hidden_size=8, num_hidden_layers=1, head_dim=4)
    config.final_logit_softcapping = 30.0
    with pytest.raises(ValueError, match="final_logit_softcapping=30"):
        Policy(Qwen3ForCausalLM(config), 1.0, 1)
