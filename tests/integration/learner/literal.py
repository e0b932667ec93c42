"""Log-probabilities as the formulas have them: one response, one token after the other."""

from __future__ import annotations

import torch

from rlvr.types import Group, Response


def logp_of(model, group: Group, response: Response, temperature: float) -> torch.Tensor:
    """Of every token that was sampled, under ``model``, which reads what was said to it as well."""
    said = {turn.end: turn.observation.tolist() for turn in response.turns}
    ids, sampled = list(group.prompt.token_ids), []
    for t, token in enumerate(response.token_ids.tolist(), start=1):
        sampled.append(len(ids))
        ids += [token, *said.get(t, [])]
    logp = torch.log_softmax(model(torch.tensor([ids])).logits[0] / temperature, -1)
    return torch.stack([logp[at - 1, ids[at]] for at in sampled])
