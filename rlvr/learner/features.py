"""What the scoring pass keeps for credit assignment, and the policy it lends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlvr.algorithm.credit import FrozenPolicy
from rlvr.config import ConfigError
from rlvr.learner.engine import gathered
from rlvr.learner.policy import Policy
from rlvr.types import TokenBatch

_STREAM_TOKENS = 8192  # rows of hidden states that are lent at a time

# Streams (index on the N axis, hidden states) of the scored tokens by running the policy again.
Recompute = Callable[[], Iterator[tuple[Int[Tensor, "n"], Float[Tensor, "n d"]]]]


class ScoringFeatures:
    """Per-token statistics under the old policy, and its hidden states on demand.

    Hidden states wait on the ``device``, in (pinned) ``host`` memory, or nowhere
    (``recompute``: each pass over them is a forward pass, a collective among the ranks).
    ``scored`` marks the tokens that the scoring pass covered: responses that can receive no
    gradient are left out, their statistics and states are 0.
    """

    def __init__(
        self,
        batch: TokenBatch,
        policy: LentPolicy,
        temperature: float,
        *,
        store: str,
        recompute: Recompute,
    ) -> None:
        n, device = batch.num_response_tokens, batch.input_ids.device
        self.batch = batch
        self.policy: FrozenPolicy = policy
        self.temperature = temperature
        self.logp: Float[Tensor, "N"] = torch.zeros(n, device=device)
        self.entropy: Float[Tensor, "N"] = torch.zeros(n, device=device)
        self.log_normaliser: Float[Tensor, "N"] = torch.zeros(n, device=device)
        self.scored: Bool[Tensor, "N"] = torch.zeros(n, dtype=torch.bool, device=device)
        self.store = store
        self._recompute = recompute
        self._hidden: Float[Tensor, "N d"] | None = None
        if store in ("device", "host"):
            on_host = store == "host" and device.type == "cuda"
            self._hidden = torch.zeros(
                (n, policy.hidden_size),
                dtype=policy.dtype,
                device="cpu" if on_host else device,
                pin_memory=on_host,
            )

    def keep(
        self, n: Int[Tensor, "n"], statistics: tuple[Tensor, ...], hidden: Float[Tensor, "n d"]
    ) -> None:
        """Take in one portion of the scoring pass; ``n`` is its place on the N axis."""
        self.logp[n], self.entropy[n], self.log_normaliser[n] = statistics
        self.scored[n] = True
        if self._hidden is not None:
            self._hidden[n.to(self._hidden.device)] = hidden.to(self._hidden.device)

    def hidden(self) -> Iterator[tuple[Int[Tensor, "n"], Float[Tensor, "n d"]]]:
        """Stream (place on the N axis, hidden states) of all scored tokens; each token once.

        May be iterated again. Every rank must iterate equally often.
        """
        if self._hidden is None:
            yield from self._recompute()
            return
        for n in torch.nonzero(self.scored)[:, 0].split(_STREAM_TOKENS):
            rows = self._hidden[n.to(self._hidden.device)]
            yield n, rows.to(n.device, non_blocking=True)


class LentPolicy:
    """The old policy, lent to credit methods that need its head or its forward pass."""

    def __init__(self, policy: Policy, pad_token_id: int) -> None:
        self._policy = policy
        self.pad_token_id = pad_token_id
        self.hidden_size: int = policy.model.config.hidden_size
        self.dtype: torch.dtype = policy.head.weight.dtype

    @contextmanager
    def head(self) -> Iterator[Float[Tensor, "V d"]]:
        """The whole ``lm_head`` weight; a collective under ZeRO-3."""
        weight = self._policy.head.weight
        with gathered([weight]):
            yield weight.detach()

    def embed(self, input_ids: Int[Tensor, "T"]) -> Float[Tensor, "T d"]:
        """Input embeddings; a collective under ZeRO-3."""
        return self._policy.embed(input_ids).detach()

    def hidden(self, embeddings: Float[Tensor, "T d"], batch: TokenBatch) -> Float[Tensor, "T d"]:
        """Final states from embeddings, differentiable in them; a collective under ZeRO-3."""
        return self._policy.hidden(batch, embeddings)


def choose_store(asked: str, batch: TokenBatch, policy: LentPolicy) -> str:
    """Resolve ``learner.features: auto`` from the memory at hand: device, host, recompute."""
    if asked != "auto":
        if asked not in ("device", "host", "recompute"):
            raise ConfigError(
                f"learner.features: '{asked}' is unknown. Valid: auto, device, host, recompute."
            )
        return asked
    needed = batch.num_response_tokens * policy.hidden_size * policy.dtype.itemsize
    device = batch.input_ids.device
    if device.type == "cpu":
        return "device" if needed < _host_memory() * 0.25 else "recompute"
    free, _ = torch.cuda.mem_get_info(device)
    if needed < free * 0.4:
        return "device"
    return "host" if needed < _host_memory() / torch.cuda.device_count() * 0.25 else "recompute"


def _host_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available)
