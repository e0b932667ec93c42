"""Text to ids and back, in one piece or in two."""

from __future__ import annotations

import random
from itertools import islice

import pytest
from transformers import AutoTokenizer

from rlvr.quickstart.arithmetic import Addition, Writer, additions, corpus, work_out
from rlvr.quickstart.tokenizer import build_tokenizer
from rlvr.quickstart.warmup import MAX_RESPONSE_TOKENS


@pytest.fixture(params=["built", "loaded"])
def tokenizer(request, tmp_path):
    tokenizer = build_tokenizer()
    if request.param == "built":
        return tokenizer
    tokenizer.save_pretrained(tmp_path)
    return AutoTokenizer.from_pretrained(tmp_path)


def chat(tokenizer, problem: str) -> str:
    message = [{"role": "user", "content": problem}]
    return tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)


def test_round_trip(tokenizer, seed):
    rng = random.Random(seed)
    for problem, solution in islice(corpus(additions(rng, set()), rng), 200):
        for text in (problem, solution, chat(tokenizer, problem) + solution):
            ids = tokenizer.encode(text)
            assert tokenizer.decode(ids) == text
            assert tokenizer.unk_token_id not in ids
            assert not set(ids) & set(tokenizer.all_special_ids)
        ids = tokenizer.encode(solution + tokenizer.eos_token)
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == solution


def test_prompt_and_response_are_tokenised_alike_apart_and_together(tokenizer):
    prompt, solution = chat(tokenizer, "478+365"), "8+5=13;\\boxed{843}"
    together = tokenizer.encode(prompt + solution)
    assert together == tokenizer.encode(prompt) + tokenizer.encode(solution)
    assert prompt == "478+365\n"
    assert tokenizer.encode("\\boxed{843}") == tokenizer.convert_tokens_to_ids(
        ["\\boxed{", "8", "4", "3", "}"]
    )


def test_every_id_is_a_token_and_foreign_text_is_unknown(tokenizer):
    assert None not in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert tokenizer.encode("é") == [tokenizer.unk_token_id]
    ids = {tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}
    assert len(ids) == 3


def test_the_longest_prompt_and_solution_fit(tokenizer):
    rng = random.Random(0)
    longest = Addition(999, 999)
    assert len(tokenizer.encode(chat(tokenizer, longest.problem))) <= 16
    solution = work_out(longest, Writer(), rng) + tokenizer.eos_token
    assert len(tokenizer.encode(solution)) <= MAX_RESPONSE_TOKENS
