"""Log-probabilities as the formulas have them: one response, one token after the other."""

from __future__ import annotations

import torch

from rlvr.types import Group, Response


def logp_of(model, group: Group, response: Response, temperature: float) -> torch.Tensor:
    ids = torch.tensor([*group.prompt.token_ids, *response.token_ids.tolist()])
    logits = model(ids[None]).logits[0] / temperature
    p = len(group.prompt.token_ids)
    logp = torch.log_softmax(logits, -1)
    return torch.stack([logp[p - 1 + t, ids[p + t]] for t in range(len(response.token_ids))])
