"""Supervised training that turns random weights into a base model worth training with RLVR."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from rlvr.quickstart.arithmetic import Addition

WINDOW = (0.20, 0.45)  # held-out greedy accuracy of a base model that has something to learn
MAX_RESPONSE_TOKENS = 40

_STEPS = 220
_MORE_STEPS = 40  # at the final learning rate, while the accuracy is still below the window
_ROUNDS = 4
_BATCH = 32
_LR = 3e-3
_LR_WARMUP = 20
_LR_FLOOR = 0.05  # of _LR
_IGNORED = -100  # the label of a token that carries no loss


class WarmUpError(Exception):
    """The base model missed the window."""


@dataclass(frozen=True, slots=True)
class WarmUp:
    """How the warm-up went."""

    accuracy: float  # greedy, on held-out problems
    steps: int
    seconds: float


def warm_up(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    corpus: Iterator[tuple[str, str]],
    held_out: Sequence[Addition],
) -> WarmUp:
    """Train ``model`` on ``corpus`` until its greedy accuracy on ``held_out`` is in WINDOW.

    Raises:
        WarmUpError: it never is.
    """
    began = time.perf_counter()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=_LR, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )
    step, accuracy = 0, 0.0
    with tqdm(desc="warm-up", unit=" step", total=_STEPS, disable=None) as bar:
        for round_ in range(1 + _ROUNDS):
            for _ in range(_MORE_STEPS if round_ else _STEPS):
                rate = _learning_rate(step)
                loss = _train(model, optimizer, rate, _batch(islice(corpus, _BATCH), tokenizer))
                step += 1
                bar.set_postfix_str(f"loss {loss:.2f}", refresh=False)
                bar.update()
            accuracy = greedy_accuracy(model, tokenizer, held_out)
            if accuracy >= WINDOW[0]:
                break
            bar.total = step + _MORE_STEPS
    if not WINDOW[0] <= accuracy <= WINDOW[1]:
        low, high = WINDOW
        raise WarmUpError(
            f"after {step} warm-up steps the base model solves {accuracy:.0%} of the held-out "
            f"problems, not {low:.0%} to {high:.0%}; try another --seed"
        )
    return WarmUp(accuracy, step, time.perf_counter() - began)


@torch.inference_mode()
def greedy_accuracy(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, problems: Sequence[Addition]
) -> float:
    """Share of ``problems`` whose last boxed answer is right, decoding greedily."""
    prompts = [_prompt(p.problem, tokenizer) for p in problems]
    encoded = tokenizer(prompts, padding=True, return_tensors="pt", return_token_type_ids=False)
    model.eval()
    tokens = model.generate(**encoded, do_sample=False, max_new_tokens=MAX_RESPONSE_TOKENS)
    model.train()
    responses = tokenizer.batch_decode(
        tokens[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True
    )
    solved = [p.solved_by(response) for p, response in zip(problems, responses, strict=True)]
    return sum(solved) / len(solved)


def _prompt(problem: str, tokenizer: PreTrainedTokenizerFast) -> str:
    message = {"role": "user", "content": problem}
    text = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    assert isinstance(text, str)
    return text


def _learning_rate(step: int) -> float:
    """A short ramp, then linearly down to the floor, where it stays."""
    ramp = min(1.0, (step + 1) / _LR_WARMUP)
    return _LR * ramp * max(_LR_FLOOR, 1 - step / _STEPS)


def _batch(
    solved: Iterable[tuple[str, str]], tokenizer: PreTrainedTokenizerFast
) -> tuple[Int[Tensor, "S L"], Int[Tensor, "S L"]]:
    """Token ids and labels, padded on the right; only the solution carries a loss."""
    ids, labels = [], []
    for problem, solution in solved:
        prompt = tokenizer(_prompt(problem, tokenizer))["input_ids"]
        response = tokenizer(solution + tokenizer.eos_token)["input_ids"]
        ids.append(torch.tensor(prompt + response))
        labels.append(torch.tensor([_IGNORED] * len(prompt) + response))
    pad = tokenizer.pad_token_id
    return (
        torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=pad),
        torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=_IGNORED),
    )


def _train(
    model: Qwen3ForCausalLM,
    optimizer: torch.optim.Optimizer,
    rate: float,
    batch: tuple[Int[Tensor, "S L"], Int[Tensor, "S L"]],
) -> float:
    """One step; the loss before it. Padding comes last, where causal attention ignores it."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    ids, labels = batch
    loss = model(input_ids=ids, labels=labels).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())
