"""A tiny dense policy, batches of fresh random numbers, and ranks that are threads."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from rlvr.algorithm.credit import Credit, SoloRanks
from rlvr.types import Packing, TokenBatch


class TinyPolicy:
    """Embeddings, one causal attention layer, a norm and a head: small enough for loops."""

    def __init__(self, vocabulary: int = 13, width: int = 6, dtype: torch.dtype = torch.float64):
        def matrix(*shape: int) -> Tensor:
            return (torch.randn(*shape, dtype=torch.float64) * 0.7).to(dtype).requires_grad_()

        self.embedding = matrix(vocabulary, width)
        self.position = matrix(64, width)
        self.query, self.key, self.value = (matrix(width, width) for _ in range(3))
        with torch.no_grad():  # attention that looks at every position
            self.query *= 0.3
        self.weight = matrix(vocabulary, width)
        self.pad_token_id = 0
        self.forwards = 0

    @property
    def parameters(self) -> list[Tensor]:
        return [
            self.embedding, self.position, self.query, self.key, self.value, self.weight
        ]  # fmt: skip

    @contextmanager
    def head(self) -> Iterator[Tensor]:
        yield self.weight.detach()

    def embed(self, input_ids: Tensor) -> Tensor:
        return self.embedding.detach()[input_ids]

    def hidden(self, embeddings: Tensor, batch: Packing) -> Tensor:
        self.forwards += 1
        bounds = batch.cu_seqlens.tolist()
        before = [(0, 0)] * len(bounds) if batch.prefix is None else batch.prefix.tolist()
        parts = [embeddings[:0]]
        for i, (begin, end) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
            shared = slice(*before[i])
            x, at = (torch.cat([y[shared], y[begin:end]]) for y in (embeddings, batch.position_ids))
            parts.append(self.sequence(x, at)[len(x) - (end - begin) :])
        return torch.cat(parts)

    def sequence(self, x: Tensor, position: Tensor) -> Tensor:
        """One sequence, [L, d] to [L, d]."""
        x = x + self.position[position]
        scores = (x @ self.query) @ (x @ self.key).T / x.shape[1] ** 0.5
        causal = torch.ones_like(scores, dtype=torch.bool).tril()
        y = x + scores.masked_fill(~causal, -torch.inf).softmax(-1) @ (x @ self.value)
        y = y + torch.tanh(y)
        return y / y.square().mean(-1, keepdim=True).add(1e-6).sqrt()


class DenseFeatures:
    """What a scoring pass would keep, streamed in ragged chunks in no particular order."""

    def __init__(
        self,
        batch: TokenBatch,
        policy: TinyPolicy,
        temperature: float = 1.0,
        scored: Tensor | None = None,
        recomputes: bool = False,
    ) -> None:
        self.policy = policy
        self.recomputes = recomputes
        self.temperature = temperature
        n = batch.num_response_tokens
        self.scored = torch.ones(n, dtype=torch.bool) if scored is None else scored
        with torch.no_grad():
            states = policy.hidden(policy.embed(batch.input_ids), batch)[batch.predict_index]
            logits = (states @ policy.weight.T).to(torch.float64) / temperature
        policy.forwards = 0
        self.states = states
        self.probability = logits.softmax(-1)
        kept = self.scored.double()
        dtype = torch.float64 if states.dtype == torch.float64 else torch.float32
        y = batch.target
        log_p = logits.log_softmax(-1)
        self.logp = (log_p[torch.arange(n), y] * kept).to(dtype)
        self.entropy = (-(log_p.exp() * log_p).sum(-1) * kept).to(dtype)
        self.log_normaliser = (logits.logsumexp(-1) * kept).to(dtype)
        self.streams = 0

    def hidden(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.streams += 1
        places = torch.nonzero(self.scored)[:, 0].tolist()
        random.shuffle(places)
        while places:
            size = random.randint(1, 9)
            n = torch.tensor(places[:size])
            places = places[size:]
            yield n, self.states[n]


def make_batch(
    groups: Sequence[int] = (4, 4, 3),
    *,
    rewards: Sequence[float] | None = None,
    lengths: Sequence[int] | None = None,
    vocabulary: int = 13,
    dtype: torch.dtype = torch.float64,
    turns: bool = True,
) -> TokenBatch:
    """A random batch with groups of the given sizes, and reward 0 or 1 with both in each.

    With ``turns`` about half of the responses have tokens between their own that nobody sampled.
    """
    total = sum(groups)
    group_id = torch.cat([torch.full((size,), 100 - 7 * g) for g, size in enumerate(groups)]).long()
    if rewards is None:
        rewards = []
        for size in groups:
            right = random.randint(1, max(size - 1, 1))
            own = [1.0] * right + [0.0] * (size - right)
            random.shuffle(own)
            rewards += own
    lengths = list(lengths or [random.randint(1, 9) for _ in range(total)])
    prompts = [random.randint(1, 4) for _ in range(total)]
    places = [_places(n, turns and random.random() < 0.5) for n in lengths]
    whole = [p + (at[-1] + 1 if at else 0) for p, at in zip(prompts, places, strict=True)]
    cu_seqlens = torch.tensor([0, *torch.tensor(whole).cumsum(0).tolist()], dtype=torch.int32)
    reward = torch.tensor(rewards, dtype=dtype)
    n = sum(lengths)
    advantage = torch.zeros(total, dtype=dtype)
    for g in group_id.unique():
        own = reward[group_id == g]
        advantage[group_id == g] = (own - own.mean()) / (own.std(correction=0) + 1e-3)
    return TokenBatch(
        input_ids=torch.randint(1, vocabulary, (sum(whole),)),
        position_ids=torch.cat([torch.arange(w) for w in whole]),
        cu_seqlens=cu_seqlens,
        token_index=torch.cat(
            [
                int(begin) + prompt + torch.tensor(at, dtype=torch.long)
                for begin, prompt, at in zip(cu_seqlens[:-1], prompts, places, strict=True)
            ]
        ),
        sequence_id=torch.repeat_interleave(torch.arange(total), torch.tensor(lengths)),
        logp_rollout=-torch.rand(n, dtype=dtype) * 2,
        policy_version=torch.full((n,), 3),
        prompt_length=torch.tensor(prompts),
        reward=reward,
        advantage=advantage,
        correct=reward >= 1,
        truncated=torch.rand(total) < 0.2,
        group_id=group_id,
        mini_batch=torch.zeros(total, dtype=torch.long),
        response_id=torch.randperm(total),
        logp_old=-torch.rand(n, dtype=dtype) * 2,
    )


def _places(sampled: int, turns: bool) -> list[int]:
    """Where so many sampled tokens stand behind a prompt."""
    places, observed = [], 0
    for t in range(sampled):
        if turns and t and random.random() < 0.4:
            observed += random.randint(1, 3)
        places.append(t + observed)
    return places


class _Meeting:
    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=20)
        self.slots: list[Tensor] = [torch.zeros(0)] * size


class ThreadRanks:
    """Ranks that are threads of this process."""

    def __init__(self, rank: int, meeting: _Meeting) -> None:
        self.rank, self.size = rank, len(meeting.slots)
        self.meeting = meeting

    def _all(self, x: Tensor) -> list[Tensor]:
        self.meeting.slots[self.rank] = x.clone()
        self.meeting.barrier.wait()
        everyone = list(self.meeting.slots)
        self.meeting.barrier.wait()
        return everyone

    def all_reduce(self, x: Tensor, op: str = "sum") -> Tensor:
        everyone = torch.stack(self._all(x))
        if op == "sum":
            return everyone.sum(0)
        return everyone.amax(0) if op == "max" else everyone.amin(0)

    def all_gather(self, x: Tensor) -> Tensor:
        return torch.cat(self._all(x))


def on_ranks(size: int, work: Callable[[ThreadRanks], object]) -> list:
    """Run ``work`` on every rank at once; the results in rank order."""
    meeting = _Meeting(size)
    results: list = [None] * size
    failures: list[BaseException] = []

    def body(rank: int) -> None:
        try:
            results[rank] = work(ThreadRanks(rank, meeting))
        except BaseException as error:
            failures.append(error)
            meeting.barrier.abort()

    threads = [threading.Thread(target=body, args=(r,)) for r in range(size)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if failures:
        raise next((f for f in failures if not isinstance(f, threading.BrokenBarrierError)),
                   failures[0])  # fmt: skip
    return results


def assign(method, batch: TokenBatch, policy: TinyPolicy, **features) -> Credit:
    """Credit of a whole batch on one rank."""
    return method.assign(batch, DenseFeatures(batch, policy, **features), SoloRanks())


def assign_on_ranks(
    method, batch: TokenBatch, policy: TinyPolicy, owners: Sequence[int], size: int, **features
) -> tuple[Tensor, list[Credit]]:
    """Credit with sequence i on rank ``owners[i]``, in shuffled order, back on the N axis.

    Checks that every rank streamed and forwarded equally often, and reports alike.
    """
    owners_t = torch.tensor(owners)
    parts = []
    for r in range(size):
        own = torch.nonzero(owners_t == r)[:, 0]
        parts.append(batch.select(own[torch.randperm(len(own))]))
    copies = []
    for part, _ in parts:
        copy = TinyPolicy.__new__(TinyPolicy)
        copy.__dict__.update(policy.__dict__)
        copies.append(DenseFeatures(part, copy, **features))
    credits = on_ranks(
        size, lambda ranks: method.assign(parts[ranks.rank][0], copies[ranks.rank], ranks)
    )
    assert len({f.streams for f in copies}) == 1, "hidden() is a collective"
    assert len({f.policy.forwards for f in copies}) == 1, "forward passes are collectives"
    for credit in credits[1:]:
        assert credit.metrics == pytest.approx(credits[0].metrics, nan_ok=True)
    coefficients = torch.zeros(batch.num_response_tokens, dtype=torch.float64)
    for (_, n), credit in zip(parts, credits, strict=True):
        coefficients[n] = credit.coefficients.double()
    return coefficients, credits


@pytest.fixture
def tiny(seed: int) -> SimpleNamespace:
    """Everything above."""
    return SimpleNamespace(
        seed=seed,
        Policy=TinyPolicy,
        Features=DenseFeatures,
        batch=make_batch,
        assign=assign,
        assign_on_ranks=assign_on_ranks,
        on_ranks=on_ranks,
        replace=replace,
    )
