"""What a sequence costs to compute: the measure by which ranks and micro-batches are balanced."""

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlvr.algorithm.credit import CREDITS, Needs
from rlvr.algorithm.objectives import OBJECTIVES, CoupledObjective
from rlvr.config import RunConfig
from rlvr.types import TokenBatch, Totals


@dataclass(frozen=True, slots=True)
class Flops:
    """Floating-point operations of a forward pass."""

    token: float  # the layers' linear maps, of a token
    pair: float  # attention, of a query and a key that it sees
    response_token: float  # the head, of a token that is predicted

    @classmethod
    def of_model(cls, model: Any) -> "Flops":
        """Of a Hugging Face causal language model, sharded or whole."""
        config = model.config
        heads = config.num_attention_heads
        width = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
        embedding = model.get_input_embeddings().weight
        layers = [p for p in model.base_model.parameters() if p is not embedding]
        return cls(
            token=2.0 * sum(getattr(p, "ds_numel", p.numel()) for p in layers),
            pair=4.0 * width * config.num_hidden_layers,
            response_token=2.0 * getattr(embedding, "ds_numel", embedding.numel()),
        )

    def of_sequences(self, batch: TokenBatch, members: Bool[Tensor, "S"]) -> Float[Tensor, "S"]:
        """Of each sequence among ``members``, which share their groups' prompts; 0 of others."""
        prompt = batch.prompt_length.double()
        after = batch.sequence_length - prompt  # sampled or observed
        group = torch.unique(batch.group_id, return_inverse=True)[1]
        sharing = torch.zeros_like(prompt).index_add_(0, group, members.to(prompt))[group]
        share = prompt / sharing.clamp(min=1)
        tokens = share + after
        pairs = share * prompt / 2 + after * (prompt + after / 2)
        cost = tokens * self.token + pairs * self.pair
        cost += batch.response_length * self.response_token
        return cost * members


class StepCost:
    """Of every sequence in a training step, before it is shared out over the ranks.

    The unit is a forward pass in FLOPs. What no gradient can reach is neither scored nor updated,
    unless the credit method wants to see every token. What only its shadows ask for counts nothing,
    for the update must not depend on them.
    """

    def __init__(self, config: RunConfig, flops: Flops) -> None:
        self._train = config.train
        self._entropy_bonus = config.learner.entropy_bonus
        self._objective = OBJECTIVES.build(config.objective, "objective")
        self._needs = CREDITS.build(config.credit, "credit").needs
        self._flops = flops

    def __call__(self, batch: TokenBatch) -> Float[Tensor, "S"]:
        """Of the sequences of a whole rollout batch."""
        if self._objective.coupled:
            start = torch.zeros_like(batch.reward)
            weight = cast(CoupledObjective, self._objective).response_weights(
                start, batch.reward, batch.group_id, Totals(1, 1, 1, 1)
            )
            batch = replace(batch, response_weight=weight)
        active = self._objective.active(batch, torch.ones_like(batch.logp_rollout))
        active = active | bool(self._entropy_bonus)
        present = ~batch.truncated if self._train.overlong_filter else torch.ones_like(active)
        cost = self._flops.of_sequences(batch, active & present)
        if Needs.EVERY_TOKEN in self._needs:
            # Scored alone: one forward pass, and not the three of every update as well.
            scored = 1 / (1 + 3 * self._train.epochs_per_step)
            cost += scored * self._flops.of_sequences(batch, ~active & present)
        return cost
