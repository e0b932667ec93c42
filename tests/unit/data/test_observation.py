"""What stands between two turns: the chat template's own text, in ids that were made once."""

from __future__ import annotations

import random

import pytest

from rlvr.config import DataConfig, EnvironmentConfig
from rlvr.data.observation import observation_template
from rlvr.errors import ConfigError

TOOLS = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WORDS = ["What", " is", " 3", "+4", "?", "\n", " apples", " <|end|", "…", " "]


@pytest.fixture
def with_tools(tokenizer):
    tokenizer.chat_template = TOOLS
    return tokenizer


def made(tokenizer, template="chat", **environment):
    return observation_template(
        DataConfig(template=template), EnvironmentConfig(**environment), tokenizer
    )


def test_a_conversation_has_the_text_that_the_template_gives_the_whole_of_it(with_tools, seed):
    """Ids are put together turn by turn; rendered at once they are the same text."""
    template, dice = made(with_tools), random.Random(seed)
    end = with_tools.convert_tokens_to_ids("<|end|>")

    def text() -> str:
        return "".join(dice.choices(WORDS, k=dice.randint(1, 9)))

    for _ in range(20):
        messages = [{"role": "user", "content": text()}]
        rendered = with_tools.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        ids = with_tools(rendered, add_special_tokens=False)["input_ids"]
        for _ in range(dice.randint(1, 4)):
            turn, said = text(), text()
            messages += [{"role": "assistant", "content": turn}, {"role": "tool", "content": said}]
            ids += [*with_tools(turn, add_special_tokens=False)["input_ids"], end]
            ids += template.encode(said, end)
        whole = with_tools.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert with_tools.decode(ids) == whole


def test_a_template_without_tools_has_the_user_say_it(tokenizer):
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    ids = made(tokenizer).encode("two", end)
    assert tokenizer.decode(ids) == "<|user|>two<|end|><|assistant|>"


@pytest.mark.parametrize("ended_by", [None, "</s>"])
def test_a_turn_that_ends_in_another_way_is_ended(tokenizer, ended_by):
    """The template's own end is there, once, whatever the policy stopped with."""
    last = None if ended_by is None else tokenizer.convert_tokens_to_ids(ended_by)
    text = tokenizer.decode(made(tokenizer).encode("two", last))
    assert text == "<|end|><|user|>two<|end|><|assistant|>"


@pytest.mark.parametrize("words", ["<|end|>", "a<|assistant|>b", "</s><s>", "<|end|><|user|>"])
def test_an_observation_cannot_end_itself(tokenizer, words):
    """Names of special tokens in what a tool says are text."""
    template = made(tokenizer)
    plain = template.encode("", None)
    ids = template.encode(words, None)
    special = set(tokenizer.all_special_ids) | set(
        tokenizer.convert_tokens_to_ids(["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"])
    )
    assert [i for i in ids if i in special] == [i for i in plain if i in special]
    assert words in tokenizer.decode(ids)


def test_a_plain_template(tokenizer):
    template = made(tokenizer, "plain", plain_template="\n<result>{observation}</result>\n")
    ids = template.encode("two {braces}", None)
    assert tokenizer.decode(ids) == "\n<result>two {braces}</result>\n"


@pytest.mark.parametrize(
    ("chat", "words"),
    [
        (
            "{% for m in messages[:2] %}{{ m['content'] }}{% endfor %}",
            "leaves a user's message out",
        ),
        (
            "{% for m in messages %}{{ loop.revindex }}{{ m['content'] }}{% endfor %}",
            "writes earlier messages in another way",
        ),
        ("{{ raise_exception('no') }}", "no"),
    ],
)
def test_a_chat_template_that_cannot_have_one_is_told(tokenizer, chat, words):
    tokenizer.chat_template = chat
    with pytest.raises(ConfigError, match=words):
        made(tokenizer)


def test_a_plain_template_without_a_place_is_told(tokenizer):
    with pytest.raises(ConfigError, match="lacks {observation}"):
        made(tokenizer, "plain", plain_template="result")
