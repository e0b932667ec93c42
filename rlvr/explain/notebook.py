"""The function for notebooks: a model that is there already is lent for the while."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from rlvr.config import RunConfig, Template
from rlvr.data.template import prompt_template
from rlvr.errors import ConfigError
from rlvr.explain.explanation import Explanation
from rlvr.explain.methods import explained
from rlvr.explain.rows import file_rows, groups_of
from rlvr.learner.attention import NAME as PACKED_ATTENTION
from rlvr.learner.policy import Policy
from rlvr.registry import labelled

Credit = str | Mapping[str, Any]  # a name, or {"name": ..., option: value}


def explain(
    model: PreTrainedModel,
    tokenizer: Any,
    responses: Sequence[Mapping[str, Any]] | str | Path,
    credit: Credit | Sequence[Credit] = "delta",
    *,
    temperature: float = 1.0,
    advantage: str = "grpo",
) -> Explanation:
    """Token coefficients of ``responses``, as the learner would compute them; nothing is trained.

    Args:
        model: a causal language model of transformers, on any device. It is left as it was.
        tokenizer: the model's.
        responses: rows ``{"prompt": text, "response": text, "reward": number}``, or a .jsonl or
            .parquet file of them. Rows with the same prompt are a group. Prompts are read as they
            are, without a template.
        credit: a method, ``{"name": "thr", "p": 0.1}`` for one with options, or several of them.
        temperature: at which the responses were sampled.
        advantage: what makes A_i of a group's rewards.

    Raises DataError for rows that cannot be used, ConfigError for an unknown method or option.
    """
    chosen = [credit] if isinstance(credit, str | Mapping) else list(credit)
    config = RunConfig(advantage={"name": advantage})
    config.rollout.temperature = temperature
    config.data.template = Template.none
    template = prompt_template(config.data, tokenizer)
    rows = (
        file_rows(Path(responses))
        if isinstance(responses, str | Path)
        else [(f"row {number}", row) for number, row in enumerate(responses, start=1)]
    )
    groups = groups_of(
        rows,
        lambda text: template.encode([text])[0],
        lambda text: tokenizer(text, add_special_tokens=False)["input_ids"],
        int(model.get_input_embeddings().num_embeddings),  # type: ignore[arg-type]
    )
    methods = dict(labelled(own, "credit") for own in chosen)
    with lent(model, temperature, config.learner.logits_mib) as policy:
        return explained(config, methods, policy, tokenizer, groups)


@contextmanager
def lent(model: PreTrainedModel, temperature: float, logits_mib: int) -> Iterator[Policy]:
    """The model's weights as the learner's policy; the model itself stays as it was."""
    shell = copy.copy(model)
    shell._modules = dict(model._modules)  # the policy changes the head
    configs = {id(m.config): m.config for m in model.modules() if isinstance(m, PreTrainedModel)}
    before = {key: config._attn_implementation for key, config in configs.items()}
    training = model.training
    try:
        for config in configs.values():
            config._attn_implementation = PACKED_ATTENTION
        model.eval()  # no dropout
        try:
            policy = Policy(shell, temperature, logits_mib)
        except ValueError as error:  # its logits are not a plain product with a head
            raise ConfigError(f"this model cannot be scored: {error}") from error
        yield policy
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]
        model.train(training)
