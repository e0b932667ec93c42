"""A case of ``rank_process.py``: a policy whose tokens ranks share, and one that has them all."""

from __future__ import annotations

import torch
import torch.distributed as dist
from transformers import Qwen3Config, Qwen3ForCausalLM

from rlvr.learner.attention import NAME
from rlvr.learner.policy import Policy
from rlvr.learner.sequence_parallel import SequenceParallel, sequence_parallel
from rlvr.types import Packing


def policy(sequence: SequenceParallel, key_heads: int) -> Policy:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=key_heads,
        head_dim=8,
    )
    network = Qwen3ForCausalLM(config).double()
    network.config._attn_implementation = NAME
    network.gradient_checkpointing_enable({"use_reentrant": False})
    network.train()
    return Policy(network, 0.7, 1, sequence)


def run(rank: int, world: int, key_heads: int, lengths: list[int], predicted: list[int]) -> dict:
    """What either policy gives for sequences that continue the first one's beginning.

    ``predicted`` are the places in T whose next token is asked for.
    """
    generator = torch.Generator().manual_seed(1)
    first, *others = (torch.randint(50, (n,), generator=generator) for n in lengths)
    packing = Packing.of([first, *others], [(0, 0), *((0, len(first) - 1) for _ in others)])
    index = torch.tensor(predicted)
    target = torch.randint(50, index.shape, generator=generator)
    results = []
    for sequence in (SequenceParallel(), sequence_parallel(world)):
        shared = policy(sequence, key_heads)
        (logp, entropy, normaliser), hidden = shared(packing, index, target)
        weight = torch.arange(1.0, len(index) + 1, dtype=torch.float64)
        (logp @ weight + entropy.sum() + hidden.square().sum()).backward()
        gradient = torch.cat([p.grad.flatten() for p in shared.parameters()])
        if sequence.size > 1:
            dist.all_reduce(gradient)
        embeddings = shared.embed(packing.input_ids).detach().requires_grad_()
        states = shared.hidden(packing, embeddings)
        (slope,) = torch.autograd.grad(states[index].square().sum(), embeddings)
        results.append([logp, entropy, normaliser, hidden, gradient, states, slope])
    return {"alone": results[0], "shared": results[1]}
