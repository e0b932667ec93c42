"""Calls of tools in the text of a turn, as models write them."""

import json
import re
from dataclasses import dataclass
from typing import Any

_TOOL_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_CODE = re.compile(r"<(code|python)>\s*(.*?)\s*</\1>", re.DOTALL)
_SEARCH = re.compile(r"<search>\s*(.*?)\s*</search>", re.DOTALL)
_BLOCK = re.compile(
    r"^```(?:python|py|tool_code)[ \t]*\n(.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE
)
_FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)\n?```", re.DOTALL)


@dataclass(frozen=True)
class Call:
    """A tool's argument, or what is wrong with the call."""

    argument: str = ""
    wrong: str = ""


def code_call(text: str) -> Call | None:
    """The last program that a turn asks to run; None if it asks for none.

    Understood are ``<tool_call>{"name": ..., "arguments": {"code": ...}}</tool_call>``,
    ``<code>...</code>``, ``<python>...</python>``, and a closed block of Python.
    """
    call = _last(text, "code", (_CODE, _BLOCK))
    fenced = None if call is None else _FENCED.fullmatch(call.argument.strip())
    return Call(fenced[1]) if fenced else call


def search_call(text: str) -> Call | None:
    """The last query of a turn, as a tool call with ``query`` or ``<search>...</search>``."""
    return _last(text, "query", (_SEARCH,))


def tool(name: str, description: str, argument: str, meaning: str) -> dict[str, Any]:
    """What a chat template is told of a tool that has one argument."""
    own = {argument: {"type": "string", "description": meaning}}
    of = {"type": "object", "properties": own, "required": [argument]}
    function = {"name": name, "description": description, "parameters": of}
    return {"type": "function", "function": function}


def _last(text: str, argument: str, forms: tuple[re.Pattern[str], ...]) -> Call | None:
    found = [(m.start(), m[m.lastindex or 0]) for form in forms for m in form.finditer(text)]
    calls = [(at, Call(own)) for at, own in found]
    calls += [(m.start(), _tool_call(m[1], argument)) for m in _TOOL_CALL.finditer(text)]
    return max(calls, key=lambda one: one[0])[1] if calls else None


def _tool_call(text: str, argument: str) -> Call:
    try:
        call: Any = json.loads(text)
    except ValueError as error:
        return Call(wrong=f"the tool call is not valid JSON: {error}")
    arguments = call.get("arguments") if isinstance(call, dict) else None
    if isinstance(arguments, str):  # some models write JSON within JSON
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = {argument: arguments}
    if not isinstance(arguments, dict) or not isinstance(arguments.get(argument), str):
        return Call(
            wrong=f'the tool call must be {{"name": ..., "arguments": {{"{argument}": ...}}}}'
        )
    return Call(arguments[argument])
