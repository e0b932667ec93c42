"""Sequences laid end to end; ``T`` counts their tokens, ``S`` the sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor


def cu_seqlens_of(lengths: Int[Tensor, "S"]) -> Int[Tensor, "S1"]:
    """Where each of sequences with these lengths begins, and the end of the last; int32."""
    return F.pad(lengths.cumsum(0), (1, 0)).int()


def ranges(start: Int[Tensor, "s"], length: Int[Tensor, "s"]) -> Int[Tensor, "total"]:
    """Concatenate ``arange(start_i, start_i + length_i)`` over i, without a Python loop."""
    offset = torch.repeat_interleave(start - (length.cumsum(0) - length), length)
    return torch.arange(len(offset), device=start.device) + offset


@dataclass(frozen=True)
class Packing:
    """Sequences laid end to end without padding: all that a forward pass reads.

    A sequence may continue tokens of another one, where that has them: ``prefix`` is [start, end)
    in T of what each continues, empty for those that stand alone; None: all do. What a sequence
    continues has no prefix itself.
    """

    input_ids: Int[Tensor, "T"]
    position_ids: Int[Tensor, "T"]
    cu_seqlens: Int[Tensor, "S1"]  # int32: where each sequence begins, and the end of the last
    prefix: Int[Tensor, "S 2"] | None = field(default=None, kw_only=True)

    @classmethod
    def of(
        cls,
        sequences: Sequence[Int[Tensor, "_"]],
        prefix: Sequence[tuple[int, int]] | None = None,
    ) -> Packing:
        """Pack ``sequences``, at least one, each with what it continues."""
        device = sequences[0].device
        lengths = torch.tensor([len(s) for s in sequences])
        before = torch.tensor(prefix or [(0, 0)] * len(sequences))
        return cls(
            torch.cat(list(sequences)),
            ranges(before[:, 1] - before[:, 0], lengths).to(device),
            cu_seqlens_of(lengths).to(device),
            prefix=before.to(device) if prefix else None,
        )

    @classmethod
    def idle(cls, device: torch.device) -> Packing:
        """For a rank that takes part in a collective forward with nothing of its own to compute."""
        return cls.of([torch.zeros(2, dtype=torch.long, device=device)])

    @property
    def num_tokens(self) -> int:
        """T."""
        return len(self.input_ids)

    @property
    def num_sequences(self) -> int:
        """S."""
        return len(self.cu_seqlens) - 1

    @property
    def sequence_length(self) -> Int[Tensor, "S"]:
        """Tokens of every sequence; in a batch, those of prompt and response."""
        return self.cu_seqlens.diff().long()
