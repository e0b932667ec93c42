from __future__ import annotations

import pytest

from rlvr.config import DataConfig
from rlvr.data.dataset import load_dataset
from rlvr.errors import DataError


def problem(text: str, answer: str = "1", **columns: object) -> dict[str, object]:
    return {"problem": text, "answer": answer, **columns}


def test_real_rows_of_every_layout(real_data, tokenizer):
    files = [str(real_data / f) for f in ("dapo_math.parquet", "gsm8k.jsonl", "math.jsonl")]
    data = load_dataset(files, DataConfig(), tokenizer)
    assert len(data.prompts) == len({p.id for p in data.prompts}) == 48
    assert (data.dropped, data.repeated, data.contradictions) == ({}, 0, [])
    assert data.summary() == "48 prompts"
    for prompt in data.prompts:
        assert tokenizer.decode(prompt.token_ids) == prompt.text
        assert prompt.text.endswith("<|end|><|assistant|>")
        assert prompt.verifier == "math" and prompt.answer


@pytest.fixture
def mixed(jsonl):
    """Rows 1 and 7 are good; every other one is bad in its own way."""
    return jsonl(
        [
            problem("good", id="first"),
            problem("no answer", ""),
            problem("  "),
            problem("long " * 50),
            b"{not json",
            {"prompt": [{"role": "oracle", "content": "?"}, {"role": "user", "content": "?"}]}
            | {"answer": "1"},
            problem("good again", id="last"),
            problem("no answer either", ""),
        ]
    )


def test_error_names_file_row_reason_and_remedy(mixed, tokenizer):
    config = DataConfig(max_prompt_tokens=100)
    with pytest.raises(DataError) as caught:
        load_dataset([str(mixed)], config, tokenizer)
    message = str(caught.value)
    assert message.startswith("6 of 8 rows cannot be used")
    assert f"{mixed}, row 2: no answer" in message
    assert f"{mixed}, row 4: the prompt has" in message
    assert "data.max_prompt_tokens=100" in message
    assert "and 1 more" in message  # five are listed
    assert "data.on_bad_row=drop" in message


def test_drop_counts_by_reason(mixed, tokenizer):
    config = DataConfig(max_prompt_tokens=100, on_bad_row="drop")
    data = load_dataset([str(mixed)], config, tokenizer)
    assert [p.id for p in data.prompts] == ["first", "last"]
    assert [bad.row for bad in data.bad_rows] == [2, 3, 4, 5, 6, 8]
    assert data.dropped == {
        "no_answer": 2,
        "no_problem": 1,
        "too_long": 1,
        "invalid_json": 1,
        "template": 1,
    }
    assert "2 prompts; 6 rows left out (invalid_json 1, no_answer 2" in data.summary()


def test_limit_on_prompt_tokens_is_inclusive(jsonl, tokenizer):
    path = str(jsonl([problem("How many apples?")]))
    (prompt,) = load_dataset([path], DataConfig(), tokenizer).prompts
    n = len(prompt.token_ids)
    assert load_dataset([path], DataConfig(max_prompt_tokens=n), tokenizer).prompts == [prompt]
    with pytest.raises(DataError, match=f"{n} tokens, over data.max_prompt_tokens={n - 1}"):
        load_dataset([path], DataConfig(max_prompt_tokens=n - 1), tokenizer)


def test_ids_are_unique_and_the_same_in_every_run(jsonl, tokenizer):
    first = jsonl([problem(t, id="a") for t in "pqr"] + [problem("s", id="a#2")], "a.jsonl")
    second = jsonl([problem("t", id="a"), problem("u"), problem("v", id=1)], "b.jsonl")
    files = [str(first), str(second)]
    ids = [p.id for p in load_dataset(files, DataConfig(), tokenizer).prompts]
    assert ids == ["a", "a#2", "a#3", "a#2#2", "a#4", "b-row2", "b-1"]
    assert [p.id for p in load_dataset(files, DataConfig(), tokenizer).prompts] == ids


def test_repeated_problems_are_kept_and_contradictions_named(jsonl, tokenizer):
    path = jsonl([problem("p", "1"), problem("q", "2"), problem("p", "1"), problem("p", "3")])
    data = load_dataset([str(path)], DataConfig(), tokenizer)
    assert len(data.prompts) == 4
    assert data.repeated == 2
    assert data.contradictions == [f"{path}, row 4: answer '3', but '1' in {path}, row 1"]
    assert "2 repeat an earlier problem (1 with another answer)" in data.summary()


def test_many_rows_keep_their_order(jsonl, tokenizer):
    n = 2100  # more than two chunks
    path = jsonl([problem(f"number {i}", str(i)) for i in range(n)])
    data = load_dataset([str(path)], DataConfig(template="none"), tokenizer)
    assert [p.answer for p in data.prompts] == [str(i) for i in range(n)]
    assert all(p.text == f"number {p.answer}" for p in data.prompts)
    assert all(tokenizer.decode(p.token_ids) == p.text for p in data.prompts[::97])


def test_nothing_usable_is_an_error_even_when_dropping(jsonl, tokenizer):
    config = DataConfig(on_bad_row="drop")
    with pytest.raises(DataError, match="row 1: no answer"):
        load_dataset([str(jsonl([problem("p", "")]))], config, tokenizer)
    with pytest.raises(DataError, match="no usable row"):
        load_dataset([str(jsonl([]))], config, tokenizer)
