from __future__ import annotations

import pytest

from rlvr.config import DataConfig
from rlvr.data.rows import Reason, RowError
from rlvr.data.template import prompt_template
from rlvr.errors import ConfigError

QUESTION = {"role": "user", "content": "What is 2 + {3}?"}


def test_chat(tokenizer):
    template = prompt_template(DataConfig(), tokenizer)
    text = template.render([QUESTION])
    assert text == "<s><|user|>What is 2 + {3}?<|end|><|assistant|>"
    expected = tokenizer.apply_chat_template(
        [QUESTION], add_generation_prompt=True, return_dict=False
    )
    assert template.encode([text]) == [expected]


def test_chat_has_one_bos_and_no_eos(bos_tokenizer):
    template = prompt_template(DataConfig(), bos_tokenizer)
    (ids,) = template.encode([template.render([QUESTION])])
    assert ids.count(bos_tokenizer.bos_token_id) == 1
    assert bos_tokenizer.eos_token_id not in ids


def test_system_prompt_replaces_the_rows_own(tokenizer):
    own = [{"role": "system", "content": "Be short."}, QUESTION]
    assert "<|system|>Be short.<|end|>" in prompt_template(DataConfig(), tokenizer).render(own)
    template = prompt_template(DataConfig(system_prompt="Think."), tokenizer)
    expected = "<s><|system|>Think.<|end|><|user|>What is 2 + {3}?<|end|><|assistant|>"
    assert template.render(own) == template.render([QUESTION]) == expected


def test_messages_that_the_chat_template_refuses(tokenizer):
    template = prompt_template(DataConfig(), tokenizer)
    with pytest.raises(RowError, match="oracle.*unknown role") as caught:
        template.render([{"role": "oracle", "content": "Ask."}, QUESTION])
    assert caught.value.reason == Reason.TEMPLATE


def test_plain_and_none_use_the_last_user_message(tokenizer):
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello!"},
        QUESTION,
    ]
    plain = DataConfig(template="plain", plain_template="Q: {problem} \\boxed{{}}\nA:")
    text = prompt_template(plain, tokenizer).render(messages)
    assert text == "Q: What is 2 + {3}? \\boxed{}\nA:"
    assert (
        prompt_template(DataConfig(template="none"), tokenizer).render(messages)
        == (QUESTION["content"])
    )


def test_default_plain_template(tokenizer):
    text = prompt_template(DataConfig(template="plain"), tokenizer).render([QUESTION])
    assert QUESTION["content"] in text and "\\boxed{}" in text


def test_bare_text_gets_the_bos_that_the_tokenizer_wants(tokenizer, bos_tokenizer):
    bos, eos = bos_tokenizer.bos_token_id, bos_tokenizer.eos_token_id
    config = DataConfig(template="none")
    texts = ["How many?", "<s>How many?"]
    body = tokenizer("How many?", add_special_tokens=False)["input_ids"]

    # Once, whether or not the text already has it; and no end-of-sequence token.
    assert prompt_template(config, bos_tokenizer).encode(texts) == [[bos, *body], [bos, *body]]
    assert prompt_template(config, tokenizer).encode(texts) == [body, [bos, *body]]
    assert eos == bos_tokenizer("How many?")["input_ids"][-1]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"template": "plain", "plain_template": "Solve it."}, "lacks {problem}"),
        ({"template": "plain", "plain_template": "{problem} in \\boxed{}"}, "every other brace"),
        ({"template": "plain", "plain_template": "{problem} {"}, "every other brace"),
        ({"template": "plain", "plain_template": "{question}"}, "every other brace"),
        ({"template": "none", "system_prompt": "Think."}, "data.system_prompt"),
    ],
)
def test_impossible_templates(tokenizer, config, message):
    with pytest.raises(ConfigError, match=message):
        prompt_template(DataConfig(**config), tokenizer)


def test_tokenizer_without_chat_template(tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="data.template=plain"):
        prompt_template(DataConfig(), tokenizer)
