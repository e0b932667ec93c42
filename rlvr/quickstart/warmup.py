"""Supervised training that turns random weights into a base model worth training with RLVR."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from rlvr.errors import WarmUpError
from rlvr.quickstart.arithmetic import Addition

WINDOW = (0.20, 0.45)  # greedy accuracy of a base model that has something to learn, ...
PASS_AT_8 = 0.60  # ... and the share of problems that it must solve in one of eight tries
MAX_RESPONSE_TOKENS = 40

_STEPS = 200
_MORE_STEPS = 40  # at a time, at the final learning rate, while the skill is not enough
_MAX_STEPS = 360
BATCH = 32
_LR = 3e-3
_LR_WARMUP = 20
_LR_FLOOR = 0.05  # of _LR
_IGNORED = -100  # the label of a token that carries no loss

Lesson = Sequence[tuple[str, bool]]  # texts one after the other, and whether each is to be learned
Batch = tuple[Int[Tensor, "S L"], Int[Tensor, "S L"]]  # token ids and labels, padded on the right


@dataclass(frozen=True, slots=True)
class Skill:
    """How well a model does on held-out problems."""

    accuracy: float  # greedy
    avg_at_8: float
    pass_at_8: float

    @property
    def enough(self) -> bool:
        """Whether RLVR would find enough right responses to learn from."""
        return self.accuracy >= WINDOW[0] and self.pass_at_8 >= PASS_AT_8


@dataclass(frozen=True, slots=True)
class WarmUp:
    """How the warm-up went."""

    skill: Skill
    steps: int
    seconds: float


def warm_up(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    corpus: Iterator[tuple[str, str]],
    held_out: Sequence[Addition],
) -> WarmUp:
    """Train ``model`` on ``corpus`` until its skill on ``held_out`` is that of a base model.

    WarmUpError if it never is, or if the model has become too good.
    """
    began = time.perf_counter()
    optimizer = _optimizer(model)
    skill = Skill(0.0, 0.0, 0.0)
    lessons = (_lesson(*solved, tokenizer) for solved in corpus)
    with tqdm(desc="warm-up", unit=" step", total=_STEPS, disable=None) as bar:
        for step in range(1, _MAX_STEPS + 1):
            batch = _batch(islice(lessons, BATCH), tokenizer)
            loss = _train(model, optimizer, _learning_rate(step - 1, _STEPS), batch)
            bar.set_postfix_str(f"loss {loss:.2f}", refresh=False)
            bar.update()
            if step == bar.total:
                if (skill := measure(model, tokenizer, held_out)).enough:
                    break
                bar.total += _MORE_STEPS
    if not skill.enough or skill.accuracy > WINDOW[1]:
        low, high = WINDOW
        raise WarmUpError(
            f"after {step} warm-up steps the base model solves {skill.accuracy:.0%} of the "
            f"held-out problems greedily and {skill.pass_at_8:.0%} in one of eight tries; wanted "
            f"are {low:.0%} to {high:.0%} and at least {PASS_AT_8:.0%}. Try another --seed."
        )
    return WarmUp(skill, step, time.perf_counter() - began)


def train_on(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    lessons: Iterator[Lesson],
    steps: int,
) -> None:
    """Train ``model`` for so many steps, each on the next lessons."""
    optimizer = _optimizer(model)
    for step in tqdm(range(steps), desc="warm-up", unit=" step", disable=None):
        batch = _batch(islice(lessons, BATCH), tokenizer)
        _train(model, optimizer, _learning_rate(step, steps), batch)


def measure(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, problems: Sequence[Addition]
) -> Skill:
    """Solve ``problems``: greedily, and eight times each at temperature 1."""
    model.eval()
    greedy = _solved(model, tokenizer, problems, do_sample=False)
    eightfold = [p for p in problems for _ in range(8)]
    sampled = _solved(model, tokenizer, eightfold, do_sample=True, temperature=1.0, top_k=0)
    model.train()
    return Skill(
        accuracy=greedy.mean().item(),
        avg_at_8=sampled.mean().item(),
        pass_at_8=sampled.view(-1, 8).amax(dim=1).mean().item(),
    )


@torch.inference_mode()
def _solved(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    problems: Sequence[Addition],
    **sampling: Any,
) -> Float[Tensor, "S"]:
    """1.0 for each problem whose last boxed answer is right."""
    prompts = [_prompt(p.problem, tokenizer) for p in problems]
    encoded = tokenizer(prompts, padding=True, return_tensors="pt", return_token_type_ids=False)
    generate: Any = model.generate  # type: ignore[misc]  # its own annotation of self is odd
    tokens = generate(**encoded, max_new_tokens=MAX_RESPONSE_TOKENS, **sampling)
    responses = tokenizer.batch_decode(
        tokens[:, encoded["input_ids"].shape[1] :], skip_special_tokens=True
    )
    pairs = zip(problems, responses, strict=True)
    return torch.tensor([float(p.solved_by(response)) for p, response in pairs])


def _prompt(problem: str, tokenizer: PreTrainedTokenizerFast) -> str:
    message = {"role": "user", "content": problem}
    text = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    assert isinstance(text, str)
    return text


def _optimizer(model: Qwen3ForCausalLM) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        model.parameters(), lr=_LR, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )


def _learning_rate(step: int, steps: int) -> float:
    """A short ramp, then linearly down to the floor, where it stays."""
    ramp = min(1.0, (step + 1) / _LR_WARMUP)
    return _LR * ramp * max(_LR_FLOOR, 1 - step / steps)


def _lesson(problem: str, solution: str, tokenizer: PreTrainedTokenizerFast) -> Lesson:
    return [(_prompt(problem, tokenizer), False), (f"{solution}{tokenizer.eos_token}", True)]


def _batch(lessons: Iterable[Lesson], tokenizer: PreTrainedTokenizerFast) -> Batch:
    ids, labels = [], []
    for lesson in lessons:
        parts = [(tokenizer(text)["input_ids"], learned) for text, learned in lesson]
        ids.append(torch.tensor([i for own, _ in parts for i in own]))
        known = [i if learned else _IGNORED for own, learned in parts for i in own]
        labels.append(torch.tensor(known))
    padded = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
    return padded(ids, padding_value=tokenizer.pad_token_id), padded(labels, padding_value=_IGNORED)


def _train(
    model: Qwen3ForCausalLM, optimizer: torch.optim.Optimizer, rate: float, batch: Batch
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
