"""Fused kernels: on where they can be, refused where they cannot, and the same numbers."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from rlvr.errors import ConfigError
from rlvr.learner.fused_kernels import fuse

SHAPE = {"vocab_size": 50, "hidden_size": 64, "num_hidden_layers": 2, "head_dim": 64}


@pytest.mark.parametrize("wanted", [None, False])
def test_without_a_gpu_nothing_changes(wanted):
    network = Qwen3ForCausalLM(Qwen3Config(**SHAPE))
    kinds = [type(m).forward for m in network.modules()]
    assert not fuse(network, wanted, torch.device("cpu"))
    assert [m.forward.__func__ for m in network.modules()] == kinds


def test_what_is_asked_for_and_cannot_be_is_refused():
    network = Qwen3ForCausalLM(Qwen3Config(**SHAPE))
    with pytest.raises(ConfigError, match="fused_kernels=true: liger-kernel runs on GPUs only"):
        fuse(network, True, torch.device("cpu"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="liger-kernel needs a GPU")
def test_the_numbers_are_the_same():
    pytest.importorskip("liger_kernel")
    plain = Qwen3ForCausalLM(Qwen3Config(**SHAPE)).cuda()
    fused = Qwen3ForCausalLM(plain.config).cuda()
    fused.load_state_dict(plain.state_dict())
    assert fuse(fused, None, torch.device("cuda"))
    ids = torch.randint(50, (2, 33), device="cuda")
    for network in (plain, fused):
        network(ids, labels=ids).loss.backward()
    for (name, a), b in zip(plain.named_parameters(), fused.parameters(), strict=True):
        assert type(a.grad) is type(b.grad), name
        assert (a.grad - b.grad).norm() < 1e-4 * a.grad.norm() + 1e-7, name
