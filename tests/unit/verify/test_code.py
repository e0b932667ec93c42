from rlvr.verify.code import extract_program, task_code

HEAD = 'from math import tau\n\ndef helper(x):\n    return x\n\ndef f(x):\n    """Doc."""\n'
PROMPT = f"<|user|>\n{HEAD}<|end|>\n<|assistant|>\n"


def test_the_last_block_that_defines_the_function() -> None:
    text = "First\n```python\ndef f(x): return 1\n```\nbetter:\n```py\ndef f(x): return 2\n```\n"
    text += "Use it:\n```python\nprint(f(3))\n```\nIt prints\n```text\n2\n```\n"
    assert extract_program(text, "f") == "\ndef f(x): return 2\n"
    assert extract_program(text) == "\nprint(f(3))\n"


def test_fences() -> None:
    assert extract_program("```\nx\n```") == "\nx\n"
    assert extract_program("````python\n```\nx\n````") == "\n```\nx\n"
    assert extract_program("  ~~~ python3 hl=1\nx\n  ~~~") == "\nx\n"
    assert extract_program("```python\nx = 1") is None
    assert extract_program("```json\n{}\n```") is None
    assert extract_program("print(1)") == "\nprint(1)"
    assert extract_program(" \n") is None
    assert extract_program("`" * 100_000) is None


def test_the_code_of_the_task() -> None:
    assert task_code(PROMPT, "f") == HEAD
    assert task_code(PROMPT, "g") == ""
    assert task_code("Write a function f(x).", "f") == ""
    program = extract_program("```python\ndef f(x): return helper(x)\n```", "f", HEAD)
    assert program is not None
    space: dict[str, object] = {}
    exec(program + "\ny = f(3)", space)
    assert space["y"] == 3


def test_a_text_that_goes_on_with_the_task() -> None:
    program = extract_program("    return helper(x) + 1\n\nprint('done')\nassert 0", "f", HEAD)
    assert program is not None and "done" not in program
    space: dict[str, object] = {}
    exec(program + "\ny = f(3)", space)
    assert space["y"] == 4
