"""``json_schema``: the response is JSON that is valid under the schema that the row gives.

The schema is the row's ``schema`` or its answer, as JSON. The JSON is the last fenced block of the
response, else the whole response. Nothing is fetched: a ``$ref`` must point into the schema.
"""

import json
import re
from functools import lru_cache
from typing import Any

from jsonschema import exceptions, validators
from referencing import Registry

from rlvr.task import Prompt, Verdict
from rlvr.verify.base import judged, unparseable

_BLOCK = re.compile(r"^```[\w-]*[ \t]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


class JsonSchema:
    """Validity under a JSON schema of any draft."""

    def verify(self, prompt: Prompt, response_text: str) -> Verdict:
        schema = prompt.meta.get("schema") or prompt.answer
        check = _validator(schema if isinstance(schema, str) else json.dumps(schema))
        try:
            text = [response_text, *_BLOCK.findall(response_text)][-1]
            value = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            return unparseable(f"not JSON: {error}")
        try:
            wrong = exceptions.best_match(check.iter_errors(value))
        except RecursionError:
            return unparseable("nested too deeply")
        return judged(wrong is None, "" if wrong is None else f"{wrong.json_path}: {wrong.message}")


@lru_cache(maxsize=1024)
def _validator(text: str) -> Any:
    try:
        schema = json.loads(text)
        kind = validators.validator_for(schema)
        kind.check_schema(schema)
    except (ValueError, exceptions.SchemaError) as error:
        raise ValueError(f"not a JSON schema: {error}") from None
    return kind(schema, registry=Registry())


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


VERIFIER = JsonSchema
