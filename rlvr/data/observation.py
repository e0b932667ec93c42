"""What an environment says, as the policy reads it: between two of its turns, in token ids."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlvr.config import DataConfig, EnvironmentConfig
from rlvr.errors import ConfigError

_MARKS = "\1question\1", "\1turn\1", "\1observation\1"


@dataclass(frozen=True)
class ObservationTemplate:
    """Text around an observation; ``observation_template`` makes one.

    The ids of a turn are those that were sampled, and the ids of what follows it are made once,
    from what a template puts there: the conversation is never rendered and tokenised anew.
    """

    tokenizer: PreTrainedTokenizerBase
    before: str  # from the end of the turn's own words
    after: str  # up to the first words of the next turn

    def encode(self, observation: str, ended_by: int | None) -> list[int]:
        """Token ids of what follows a turn whose last token, if it is a special one, ended it.

        What an observation says is text: the name of a special token in it is none.
        """
        before, end = self.before, self._text([ended_by] if ended_by is not None else [])
        before = before.removeprefix(end) if end else before
        said = self._ids(observation, split_special_tokens=True)
        own = (i for i in said if i not in self._special)
        return [*self._ids(before), *own, *self._ids(self.after)]

    @cached_property
    def _special(self) -> set[int]:
        """Ids that are no text; asked once, for a tokenizer puts them together each time."""
        return set(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id}

    def _ids(self, text: str, **options: Any) -> list[int]:
        # The tokenizer's own special tokens, one at the beginning of a text, stay off.
        encoded = self.tokenizer(text, add_special_tokens=False, verbose=False, **options)
        ids: list[int] = encoded["input_ids"]
        return ids

    def _text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))


def observation_template(
    data: DataConfig, environment: EnvironmentConfig, tokenizer: PreTrainedTokenizerBase
) -> ObservationTemplate:
    """As ``data.template`` has it.

    * ``chat``: what the chat template puts between an assistant's message and its next one, where
      the message between is a ``tool``'s, or a ``user``'s if the template has no tools.
    * otherwise ``environment.plain_template``, with the observation for ``{observation}``.

    Raises ConfigError if a template has no place for an observation, writes earlier messages in
    another way once a later one is there, or comes out of the tokenizer as other text.
    """
    if data.template == "chat":
        before, after = _chat(tokenizer)
    else:
        before, after = _plain(environment)
    template = ObservationTemplate(tokenizer, before, after)
    if (text := template._text(template.encode("", None))) != before + after:
        raise ConfigError(
            f"the tokenizer writes what stands around an observation as {text!r}, where the "
            f"template has {before + after!r}. "
            "Set data.template=plain and environment.plain_template to a form that it can write."
        )
    return template


def _plain(environment: EnvironmentConfig) -> tuple[str, str]:
    before, place, after = environment.plain_template.partition("{observation}")
    if not place:
        told = "it lacks {observation}, the place of what an environment says."
        raise ConfigError(f"environment.plain_template: {told}")
    return before, after


def _chat(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    question, turn, observation = _MARKS
    begun = [{"role": "user", "content": question}, {"role": "assistant", "content": turn}]
    problem = ""
    for role in ("tool", "user"):
        said = {"role": role, "content": observation}
        try:
            one = _rendered(tokenizer, begun)
            whole = _rendered(tokenizer, [*begun, said], add_generation_prompt=True)
        except Exception as error:  # templates raise what they like about roles they do not know
            problem = str(error)
            continue
        head = one.partition(turn)[0] + turn
        if not whole.startswith(head):
            problem = "it writes earlier messages in another way once a later one is there"
            continue
        before, place, after = whole.removeprefix(head).partition(observation)
        if place:
            return before, after
        problem = f"it leaves a {role}'s message out"
    raise ConfigError(
        f"the chat template cannot have an observation between two turns: {problem}. Use "
        "data.template=plain with environment.plain_template, or another tokenizer."
    )


def _rendered(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], **options: Any
) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
