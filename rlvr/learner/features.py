"""What the scoring pass keeps for credit assignment, and the policy it lends."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlvr.algorithm.credit import FrozenPolicy
from rlvr.learner.collectives import DistributedRanks, ranks_on_node
from rlvr.learner.engine import gathered
from rlvr.learner.policy import Policy
from rlvr.types import Packing

_STREAM_TOKENS = 8192  # rows of hidden states that are lent at a time

# Streams (index on the N axis, hidden states) of the scored tokens by running the policy again.
Recompute = Callable[[], Iterator[tuple[Int[Tensor, "n"], Float[Tensor, "n d"]]]]


class LentPolicy:
    """The old policy, lent to credit methods that need its head or its forward pass."""

    def __init__(self, policy: Policy, pad_token_id: int) -> None:
        self._policy = policy
        self.pad_token_id = pad_token_id
        self.hidden_size: int = policy.model.config.hidden_size
        self.dtype: torch.dtype = policy.head.weight.dtype

    @contextmanager
    def head(self) -> Iterator[Float[Tensor, "V d"]]:
        weight = self._policy.head.weight
        with gathered([weight]):
            yield weight.detach()

    def embed(self, input_ids: Int[Tensor, "T"]) -> Float[Tensor, "T d"]:
        return self._policy.embed(input_ids).detach()

    def hidden(self, embeddings: Float[Tensor, "T d"], packing: Packing) -> Float[Tensor, "T d"]:
        return self._policy.hidden(packing, embeddings)


class ScoringFeatures:
    """Per-token statistics under the old policy, and its hidden states on demand.

    Hidden states wait on the ``device``, in (pinned) ``host`` memory, or nowhere
    (``recompute``: each pass over them is a forward pass, a collective among the ranks).

    Args:
        scored: this rank's tokens whose response can receive a gradient; of the others,
            statistics are 0 and hidden states are not kept.
        policy: lent on.
        temperature: of the sampling.
        store: ``device``, ``host`` or ``recompute``.
        recompute: streams the hidden states of the tokens that are kept.
        kept: tokens whose hidden states are; by default all that are scored.
    """

    def __init__(
        self,
        scored: Bool[Tensor, "N"],
        policy: LentPolicy,
        temperature: float,
        *,
        store: str,
        recompute: Recompute,
        kept: Bool[Tensor, "N"] | None = None,
    ) -> None:
        n, device = len(scored), scored.device
        self.scored = scored
        self.policy: FrozenPolicy = policy
        self.temperature = temperature
        self.logp, self.entropy, self.log_normaliser = torch.zeros(3, n, device=device)
        self.recomputes = store == "recompute"
        self._recompute = recompute
        # In the order in which the micro-batches came, so that no chunk has to be gathered.
        self._kept = scored if kept is None else kept
        size = 0 if self.recomputes else int(self._kept.sum())
        on_host = store == "host" and device.type == "cuda"
        self._count = 0
        self._place = torch.zeros(size, dtype=torch.long, device=device)
        self._hidden = torch.empty(
            (size, policy.hidden_size),
            dtype=policy.dtype,
            device="cpu" if on_host else device,
            pin_memory=on_host,
        )

    def keep(
        self, n: Int[Tensor, "n"], statistics: tuple[Tensor, ...], hidden: Float[Tensor, "n d"]
    ) -> None:
        """Take in one micro-batch of the scoring pass; ``n`` is its place on the N axis."""
        self.logp[n], self.entropy[n], self.log_normaliser[n] = statistics
        if len(self._place):
            own = self._kept[n]
            if not own.all():
                n, hidden = n[own], hidden[own]
            rows = slice(self._count, self._count + len(n))
            self._place[rows] = n
            self._hidden[rows].copy_(hidden, non_blocking=True)
            self._count = rows.stop

    def hidden(self) -> Iterator[tuple[Int[Tensor, "n"], Float[Tensor, "n d"]]]:
        if self.recomputes:
            yield from self._recompute()
            return
        places: Iterable[Tensor] = self._place.split(_STREAM_TOKENS)
        chunks: Iterable[Tensor] = self._hidden.split(_STREAM_TOKENS)
        if self._hidden.device != self._place.device:
            chunks = prefetched(chunks, self._place.device)
        yield from zip(places, chunks, strict=True)


class JoinedFeatures:
    """What several scoring passes kept, as one method among others is to see it.

    Args:
        passes: that have no token in common.
        scored: this rank's tokens that the method is to see.
    """

    def __init__(self, passes: Sequence[ScoringFeatures], scored: Bool[Tensor, "N"]) -> None:
        self._passes = passes
        self.scored = scored
        self.policy, self.temperature = passes[0].policy, passes[0].temperature
        self.recomputes = any(p.recomputes for p in passes)
        self.logp, self.entropy, self.log_normaliser = (
            torch.where(scored, torch.stack([getattr(p, name) for p in passes]).sum(0), 0.0)
            for name in ("logp", "entropy", "log_normaliser")
        )

    def hidden(self) -> Iterator[tuple[Int[Tensor, "n"], Float[Tensor, "n d"]]]:
        for own in self._passes:
            for n, hidden in own.hidden():
                wanted = self.scored[n]
                yield n[wanted], hidden[wanted]


def prefetched(chunks: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
    """``chunks`` on the GPU ``device``; the next one travels while one is being used."""
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))  # the chunks may still be arriving
    ahead: list[tuple[Tensor, torch.cuda.Event]] = []
    for chunk in chunks:
        with torch.cuda.stream(side):
            ahead.append((chunk.to(device, non_blocking=True), side.record_event()))
        if len(ahead) > 1:
            yield _arrived(*ahead.pop(0))
    for last in ahead:
        yield _arrived(*last)


def _arrived(rows: Tensor, event: torch.cuda.Event) -> Tensor:
    """``rows``, safe to use on the current stream."""
    current = torch.cuda.current_stream(rows.device)
    current.wait_event(event)
    rows.record_stream(current)
    return rows


STORES = ("device", "host", "recompute")  # in the order of their cost


def agreed_store(asked: str, tokens: int, policy: LentPolicy, device: torch.device) -> str:
    """``choose_store``, alike on all ranks, each with its own ``tokens``; a collective."""
    own = choose_store(asked, tokens, policy, device, ranks_on_node())
    # Recomputing is a collective: a rank short of memory decides for the others too.
    return STORES[DistributedRanks(device).max_count(STORES.index(own))]


def choose_store(
    asked: str, tokens: int, policy: LentPolicy, device: torch.device, ranks_on_node: int
) -> str:
    """Resolve ``learner.features: auto`` from the memory at hand, for so many scored tokens.

    The ranks of a node share its host memory.
    """
    if asked != "auto":
        return asked
    needed = tokens * policy.hidden_size * policy.dtype.itemsize
    fits_host = needed < _host_memory() / ranks_on_node * 0.25
    if device.type == "cpu":
        return "device" if fits_host else "recompute"
    free, _ = torch.cuda.mem_get_info(device)
    if needed < free * 0.4:
        return "device"
    return "host" if fits_host else "recompute"


def _host_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available)
