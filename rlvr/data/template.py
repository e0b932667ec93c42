"""Prompt templates: from the messages of a row to the text, and the tokens, the policy reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlvr.config import DataConfig
from rlvr.data.rows import Message, Reason, RowError
from rlvr.errors import ConfigError

Tool = dict[str, Any]  # what a chat template is told of one


@dataclass(frozen=True)
class PromptTemplate:
    """Writes a prompt out, and gives its token ids; ``prompt_template`` makes one."""

    config: DataConfig
    tokenizer: PreTrainedTokenizerBase
    bos: list[int]  # the token that the tokenizer wants before a text, if it wants one

    def render(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
        """The text of a prompt, with ``tools`` if it is a chat template that knows of such.

        Raises RowError where the chat template refuses the messages.
        """
        if self.config.template == "chat":
            return self._chat(messages, tools)
        problem = messages[-1]["content"]  # the user's: no other row gets here
        plain = self.config.template == "plain"
        return self.config.plain_template.format(problem=problem) if plain else problem

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of rendered prompts. One beginning-of-sequence token at most."""
        # The tokenizer's own special tokens stay off: some add an end-of-sequence token too,
        # after which no policy has anything to say.
        encoded = self.tokenizer(
            list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False
        )
        return [
            ids if ids[: len(self.bos)] == self.bos else self.bos + ids
            for ids in encoded["input_ids"]
        ]

    def _chat(self, messages: Sequence[Message], tools: Sequence[Tool]) -> str:
        if (system_prompt := self.config.system_prompt) is not None:
            rest = [m for m in messages if m["role"] != "system"]
            messages = [{"role": "system", "content": system_prompt}, *rest]
        try:
            text = self.tokenizer.apply_chat_template(
                list(messages), list(tools) or None, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # templates raise what they like about roles they do not know
            roles = ", ".join(m["role"] for m in messages)
            told = f"the chat template refuses its messages ({roles}): {error}"
            raise RowError(Reason.TEMPLATE, told) from error
        return str(text)


def prompt_template(config: DataConfig, tokenizer: PreTrainedTokenizerBase) -> PromptTemplate:
    """The template that ``config.template`` names; ConfigError if the tokenizer cannot have it.

    * ``chat``: the tokenizer's chat template, with the generation prompt.
      ``config.system_prompt`` takes the place of a row's own system message.
    * ``plain``: ``config.plain_template`` with the last user message for ``{problem}``.
    * ``none``: the last user message as it is.
    """
    if config.template == "chat":
        if not tokenizer.chat_template:
            raise ConfigError(
                f"data.template=chat: the tokenizer {tokenizer.name_or_path!r} has no chat "
                "template. Use data.template=plain, or a tokenizer that has one (model.tokenizer)."
            )
        return PromptTemplate(config, tokenizer, bos=[])
    if config.system_prompt is not None:
        raise ConfigError(
            f"data.system_prompt: template '{config.template}' has no place for a system prompt; "
            "use data.template=chat, or write it into data.plain_template."
        )
    template = PromptTemplate(config, tokenizer, _leading_bos(tokenizer))
    mark = "\0problem\0"
    try:
        sample = template.render([{"role": "user", "content": mark}])
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(
            f"data.plain_template: {error!r}; only {{problem}} is filled in, "
            "so write every other brace twice ({{ and }})."
        ) from error
    if mark not in sample:
        raise ConfigError("data.plain_template: it lacks {problem}, the place of the problem.")
    return template


def _leading_bos(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("1")["input_ids"][:1] == [bos] else []
