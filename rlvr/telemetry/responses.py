"""Every response with its verdict, one Parquet file a step."""

import asyncio
import json
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from rlvr.errors import ResponseLogError
from rlvr.telemetry.metrics import json_clean
from rlvr.telemetry.run_folder import replacing
from rlvr.types import Group, samples_of

SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("group", pa.int32()),  # place of the prompt in the batch
        ("sample", pa.int32()),  # place of the response in its group
        ("prompt_id", pa.string()),
        ("source", pa.string()),
        ("verifier", pa.string()),
        ("prompt", pa.string()),
        ("answer", pa.string()),  # the right one
        ("response", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("response_tokens", pa.int32()),
        ("reward", pa.float64()),
        ("outcome", pa.string()),
        ("detail", pa.string()),
        ("components", pa.string()),  # JSON: what each part of the reward gave
        ("advantage", pa.float64()),  # null in an evaluation
        ("finish_reason", pa.string()),
        ("policy_version_min", pa.int32()),
        ("policy_version_max", pa.int32()),
        ("logp_mean", pa.float64()),  # of the response's tokens, when they were sampled
        ("verifier_seconds", pa.float64()),
    ]
)


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
        groups: Sequence[Group],
        advantages: np.ndarray | None = None,
    ) -> None:
        """Begin to write ``path``, once the file before it is done (so memory stays bounded).

        Args:
            path: the file, replaced if it exists.
            step: the training step, or the one that an evaluation follows.
            groups: the batch.
            advantages: [S] A_i in sample order; None where nothing is trained.

        Raises:
            ResponseLogError: the file before it could not be written.
            ValueError: as many advantages as responses are needed.
        """
        count = len(samples_of(groups))
        if advantages is not None and len(advantages) != count:
            raise ValueError(f"{count} responses came with {len(advantages)} advantages")
        if self._under_way is not None:
            before, self._under_way = self._under_way, None
            await asyncio.wrap_future(before)
        self._under_way = self._thread.submit(_write, path, step, groups, advantages)

    def close(self) -> None:
        """Wait for the last file."""
        self._thread.shutdown()
        if self._under_way is not None:
            before, self._under_way = self._under_way, None
            before.result()


def response_table(
    step: int, groups: Sequence[Group], advantages: np.ndarray | None = None
) -> pa.Table:
    """The rows of a file, in sample order; arguments as of ``ResponseLog.write``."""
    rows = []
    numbered = (
        (g, i, group.prompt, sample)
        for g, group in enumerate(groups)
        for i, sample in enumerate(group.samples)
    )
    for k, (g, i, prompt, sample) in enumerate(numbered):
        response, verdict = sample.response, sample.verdict
        versions = response.policy_version
        sampled = len(versions) > 0
        rows.append(
            {
                "step": step,
                "group": g,
                "sample": i,
                "prompt_id": prompt.id,
                "source": prompt.source,
                "verifier": prompt.verifier,
                "prompt": _storable(prompt.text),
                "answer": _storable(prompt.answer),
                "response": _storable(sample.text),
                "prompt_tokens": len(prompt.token_ids),
                "response_tokens": len(response.token_ids),
                "reward": verdict.reward,
                "outcome": str(verdict.outcome),
                "detail": _storable(verdict.detail),
                "components": json.dumps(json_clean(verdict.components)),
                "advantage": None if advantages is None else advantages[k],
                "finish_reason": response.finish_reason,
                "policy_version_min": int(versions.min()) if sampled else None,
                "policy_version_max": int(versions.max()) if sampled else None,
                "logp_mean": float(response.logp_rollout.mean()) if sampled else None,
                "verifier_seconds": verdict.seconds,
            }
        )
    return pa.Table.from_pylist(rows, SCHEMA)


def _write(path: Path, step: int, groups: Sequence[Group], advantages: np.ndarray | None) -> None:
    try:
        with replacing(path) as temporary:
            parquet.write_table(
                response_table(step, groups, advantages), temporary, compression="zstd"
            )
    except (OSError, pa.ArrowException) as error:
        raise ResponseLogError(
            f"{path} could not be written: {error}. Make room there, or set "
            "telemetry.log_responses=false."
        ) from error


def _storable(text: str) -> str:
    """A lone surrogate, as hostile output may hold, has no UTF-8 form: it becomes '?'."""
    return text.encode("utf-8", "replace").decode("utf-8")
