"""What came out: coefficients of every token, as JSON and as a page."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rlvr.errors import ConfigError
from rlvr.telemetry.metrics import json_clean
from rlvr.telemetry.page.blocks import packed_responses
from rlvr.telemetry.page.page import page_html
from rlvr.telemetry.page.runs import NO_STEPS
from rlvr.telemetry.responses import response_table
from rlvr.telemetry.run_folder import write_text
from rlvr.types import IN_USE, Group, samples_of


@dataclass(frozen=True, repr=False)
class Explanation:
    """Token coefficients of given responses; a notebook shows them token by token."""

    groups: Sequence[Group]
    advantages: np.ndarray  # float64 [S], in sample order
    tokens: pa.ListArray  # of each response, what every token adds to its text
    coefficients: Mapping[str, Sequence[np.ndarray]] = field(default_factory=dict)
    """By method: c_t of each response, float32 [n] in sample order."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """``credit/...`` of the first method, and ``shadow/NAME/...`` of the others."""

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """A row for each response, group by group, as the JSON has them."""
        prompts = [
            (g, group.prompt.text) for g, group in enumerate(self.groups) for _ in group.samples
        ]
        return [
            {
                "group": group,
                "prompt": prompt,
                "response": sample.text,
                "reward": sample.verdict.reward,
                "outcome": str(sample.verdict.outcome),
                "advantage": float(self.advantages[i]),
                "response_token_ids": sample.response.token_ids.tolist(),
                "tokens": self.tokens[i].as_py(),
                "coefficient": {name: c[i].tolist() for name, c in self.coefficients.items()},
            }
            for i, ((group, prompt), sample) in enumerate(
                zip(prompts, samples_of(self.groups), strict=True)
            )
        ]

    @property
    def html(self) -> str:
        """The page, whole."""
        methods = list(self.coefficients)
        columns = dict(zip([IN_USE, *methods[1:]], self.coefficients.values(), strict=True))
        table = response_table(1, self.groups, self.advantages, columns, self.tokens)
        title = ", ".join(methods)
        run = {
            **NO_STEPS,
            "name": title,
            "methods": methods,
            "responses": {"given": [[1, len(table), len(table)]]},
        }
        made = time.strftime("%Y-%m-%d %H:%M:%S")
        content = {"made": made, "refresh": 0, "runs": [run], "families": []}
        return page_html(title, content, {"responses-0-given-1": packed_responses(table, methods)})

    def save(self, path: str | Path) -> None:
        """Write the ``.json`` or the ``.html``, whole or not at all."""
        path = Path(path)
        if path.suffix == ".html":
            write_text(path, self.html)
        elif path.suffix == ".json":
            methods, metrics = list(self.coefficients), json_clean(dict(self.metrics))
            told = {"methods": methods, "metrics": metrics, "responses": self.rows}
            write_text(path, json.dumps(told) + "\n")
        else:
            raise ConfigError(f"{path}: an explanation is saved as .json or .html")

    def __repr__(self) -> str:
        responses = len(self.advantages)
        return f"<{', '.join(self.coefficients)} on {responses} responses: .rows, .save(path)>"

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{escape(self.html)}" width="100%" height="700"></iframe>'
