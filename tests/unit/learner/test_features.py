"""What the scoring pass keeps comes back: every scored token once, whatever the portions."""

from __future__ import annotations

import pytest
import torch

from rlvr.learner import features as module
from rlvr.learner.features import LentPolicy, ScoringFeatures, choose_store

POLICY = LentPolicy.__new__(LentPolicy)  # without a model: a store asks for sizes alone
POLICY.hidden_size, POLICY.dtype = 5, torch.bfloat16
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("store", ["device", "host"])
@pytest.mark.parametrize("tokens", [0, 1, 40, 41])
def test_kept_states_come_back(monkeypatch, device, store, tokens):
    monkeypatch.setattr(module, "_STREAM_TOKENS", 8)
    states = torch.randn(tokens, 5).bfloat16().to(device)
    scored = (torch.rand(tokens) < 0.7).to(device)
    features = ScoringFeatures(scored, POLICY, 1.0, store=store, recompute=lambda: iter(()))
    assert not features.recomputes
    order = torch.nonzero(scored)[:, 0]
    order = order[torch.randperm(len(order), device=device)]
    for n in order.split(11):
        features.keep(n, tuple(n.float() + k for k in range(3)), states[n])
    for _ in range(2):
        places, back = [], []
        for n, hidden in features.hidden():
            assert len(n) == len(hidden) <= 8 and hidden.device == n.device == scored.device
            places.append(n)
            back.append(hidden * 1)  # used at once, on the current stream
        places = torch.cat([order[:0], *places])
        assert torch.equal(places.sort().values, torch.nonzero(scored)[:, 0])
        assert torch.equal(torch.cat([states[:0], *back]), states[places])
    assert torch.equal(features.entropy[order], order.float() + 1)
    assert (features.logp[~scored] == 0).all()


def test_recomputed_states_are_asked_for_every_time():
    asked = []

    def recompute():
        asked.append(1)
        yield torch.tensor([0]), torch.ones(1, 5)

    scored = torch.ones(1, dtype=torch.bool)
    features = ScoringFeatures(scored, POLICY, 1.0, store="recompute", recompute=recompute)
    features.keep(torch.tensor([0]), tuple(torch.zeros(1) for _ in range(3)), torch.ones(1, 5))
    assert features.recomputes
    assert len([*features.hidden(), *features.hidden()]) == len(asked) == 2


def test_the_store_follows_from_the_memory(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(module, "_host_memory", lambda: 4 * 1000 * 5 * 2)
    assert choose_store("auto", 999, POLICY, cpu, 1) == "device"
    assert choose_store("auto", 1001, POLICY, cpu, 1) == "recompute"
    assert choose_store("auto", 499, POLICY, cpu, 2) == "device"
    assert choose_store("auto", 501, POLICY, cpu, 2) == "recompute", "two ranks share the host"
    assert choose_store("host", 10**9, POLICY, cpu, 8) == "host"
