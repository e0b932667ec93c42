"""Every response with its verdict, one Parquet file a step."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from rlvr.errors import ResponseLogError
from rlvr.telemetry.metrics import json_clean
from rlvr.telemetry.run_folder import replacing
from rlvr.telemetry.tokens import Coefficients, LoggedTokens
from rlvr.types import IN_USE, Group, Turn, samples_of

_ROW_GROUP = 512  # responses that are read at once, at least
_DICTIONARY = 8 << 20  # bytes: a large vocabulary fits

_TURNS = pa.list_(pa.struct([("end", pa.int32()), ("said", pa.string()), ("reward", pa.float64())]))

Groups = Sequence[Group]
Advantages = np.ndarray | None  # [S] A_i in sample order; None where nothing is trained


class ResponseLog:
    """Writes response files in a thread of its own, one at a time.

    A write that failed is raised by the next ``write`` or by ``close``.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "response-log")
        self._under_way: Future[None] | None = None

    async def write(
        self,
        path: Path,
        step: int,
        groups: Groups,
        advantages: Advantages = None,
        tokens: LoggedTokens | None = None,
    ) -> None:
        """Begin to write ``path``, once the file before it is done (so memory stays bounded)."""
        count = len(samples_of(groups))
        if advantages is not None and len(advantages) != count:
            raise ValueError(f"{count} responses came with {len(advantages)} advantages")
        if self._under_way is not None:
            before, self._under_way = self._under_way, None
            await asyncio.wrap_future(before)
        self._under_way = self._thread.submit(_write, path, step, groups, advantages, tokens)

    def close(self) -> None:
        """Wait for the last file."""
        self._thread.shutdown()
        if self._under_way is not None:
            before, self._under_way = self._under_way, None
            before.result()


def response_table(
    step: int,
    groups: Groups,
    advantages: Advantages = None,
    coefficients: Mapping[str, Coefficients] | None = None,
    texts: pa.ListArray | None = None,
) -> pa.Table:
    """The rows of a file, in sample order; ``step`` trained on them, or they evaluate it.

    ``coefficients`` are given by the label of the method.
    """
    whole, real, text = (partial(pa.array, type=t) for t in (pa.int32(), pa.float64(), pa.string()))
    samples = samples_of(groups)
    prompts = [group.prompt for group in groups for _ in group.samples]
    responses, verdicts = [s.response for s in samples], [s.verdict for s in samples]
    versions = [r.policy_version if len(r.policy_version) else None for r in responses]
    credit = {IN_USE: [None] * len(samples), **(coefficients or {})}
    return pa.table(
        {
            "step": whole([step] * len(samples)),
            # the place of the prompt in the batch, and of the response in its group
            "group": whole(g for g, group in enumerate(groups) for _ in group.samples),
            "sample": whole(i for group in groups for i in range(len(group.samples))),
            "prompt_id": text(p.id for p in prompts),
            "source": text(p.source for p in prompts),
            "verifier": text(p.verifier for p in prompts),
            "prompt": text(_storable(p.text) for p in prompts),
            "answer": text(_storable(p.answer) for p in prompts),  # the right one
            "response": text(_storable(s.text) for s in samples),
            "prompt_tokens": whole(len(p.token_ids) for p in prompts),
            "response_tokens": whole(len(r.token_ids) for r in responses),
            "reward": real(v.reward for v in verdicts),
            "outcome": text(str(v.outcome) for v in verdicts),
            "detail": text(_storable(v.detail) for v in verdicts),
            "components": text(json.dumps(json_clean(v.components)) for v in verdicts),
            "advantage": real([None] * len(samples) if advantages is None else advantages),
            "finish_reason": text(r.finish_reason for r in responses),
            "policy_version_min": whole(v if v is None else v.min() for v in versions),
            "policy_version_max": whole(v if v is None else v.max() for v in versions),
            # of the response's tokens, when they were sampled
            "logp_mean": real(
                r.logp_rollout.mean() if len(r.token_ids) else None for r in responses
            ),
            "verifier_seconds": real(v.seconds for v in verdicts),
            # of a conversation: where each turn ends among the sampled tokens, and the reply to it
            "turns": pa.array(([_said(t) for t in r.turns] for r in responses), _TURNS),
            # of every token, those of the end included: its id, what it adds to the text, and c_t
            "response_token_ids": pa.array((r.token_ids for r in responses), pa.list_(pa.int32())),
            "tokens": pa.nulls(len(samples), pa.list_(pa.string())) if texts is None else texts,
            **{
                coefficient_column(label): pa.array(c, pa.list_(pa.float32()), from_pandas=False)
                for label, c in credit.items()
            },
        }
    )


def _said(turn: Turn) -> dict[str, object]:
    return {"end": turn.end, "said": _storable(turn.said), "reward": turn.reward}


def coefficient_column(label: str) -> str:
    """Where the coefficients of the method of that label stand."""
    return f"coefficient:{label}" if label != IN_USE else "coefficient"


def _write(
    path: Path, step: int, groups: Groups, advantages: Advantages, tokens: LoggedTokens | None
) -> None:
    try:
        with replacing(path) as temporary:
            by_label = tokens.coefficients.items() if tokens else ()
            coefficients = {label: [_rounded(c) for c in own] for label, own in by_label}
            texts = tokens.texts if tokens else None
            table = response_table(step, groups, advantages, coefficients, texts)
            parquet.write_table(
                table,
                temporary,
                compression="zstd",
                row_group_size=_ROW_GROUP,
                dictionary_pagesize_limit=_DICTIONARY,
            )
    except (OSError, pa.ArrowException) as error:
        raise ResponseLogError(
            f"{path} could not be written: {error}. Make room there, or set "
            "telemetry.log_responses=false."
        ) from error


def _rounded(coefficients: np.ndarray | None) -> np.ndarray | None:
    """To eleven bits, of which a few thousand values occur: a dictionary of them is compact."""
    if coefficients is None:
        return None
    with np.errstate(over="ignore"):
        return coefficients.astype(np.float16).astype(np.float32)


def _storable(text: str) -> str:
    """A lone surrogate, as hostile output may hold, has no UTF-8 form: it becomes '?'."""
    return text.encode("utf-8", "replace").decode("utf-8")
