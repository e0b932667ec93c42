"""``python -m rlvr.audit [RUN] [overrides]``: does credit lie where the outcome is decided?"""

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from omegaconf import DictConfig

from rlvr.algorithm.compatibility import METHODS
from rlvr.config import RunConfig
from rlvr.errors import ConfigError, RunFolderError, for_people
from rlvr.evaluation.audit_folder import AuditFolder
from rlvr.evaluation.settings import folder_name
from rlvr.hydra_config import as_in, check_overrides, register, run_config
from rlvr.loop.audit_session import audit
from rlvr.loop.checkpoint import Checkpoint
from rlvr.loop.checkpoints import find_checkpoint
from rlvr.loop.validate import validated
from rlvr.storage import Folder

_DEFAULTS = ["train.steps=1"]  # a run must have it
_OF_A_RUN = ("model", "data", "rollout", "verifier", "environment", *METHODS, "shadow")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m rlvr.audit",
        description="Whether token credit lies where the outcome is decided. Responses to prompts "
        "of data.train are continued anew from before and after their tokens, so that the effect "
        "of each is known, and the coefficients of credit and of shadow.credits=[...] are held "
        "against the effects. audit.continuations is what may be spent. Of a RUN, or one of its "
        "checkpoints, the policy of the newest is audited, as the run was configured. What was "
        "interrupted goes on with the same command.",
    )
    parser.add_argument("what", nargs="*", metavar="RUN | KEY=VALUE", help="as for rlvr.train")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="of the result")
    options = parser.parse_intermixed_args(arguments)
    with for_people():
        runs = [word for word in options.what if "=" not in word]
        if len(runs) > 1:
            raise ConfigError(f"one run at a time, not {', '.join(runs)}")
        register()
        try:
            overrides = [word for word in options.what if "=" in word]
            _audit(runs[0] if runs else None, overrides, options.output)
        finally:
            ray.shutdown()


def _audit(run: str | None, overrides: list[str], output: Path | None) -> None:
    checkpoint: Checkpoint | None = None
    if run is None:
        config = validated(run_config(_node(overrides)))
        name = config.model.path
        own = Path("outputs", "audit", folder_name(name))
    else:
        checkpoint = find_checkpoint(Folder.at(run))
        if checkpoint is None:
            raise RunFolderError(f"{run} has no checkpoint. Its last model: model.path={run}/model")
        there = checkpoint.configuration
        told = {word.split("=")[0] for word in overrides}
        methods = [f"{g}={there[g]['name']}" for g in METHODS if g in there and g not in told]
        node = as_in(there, _node([*methods, *overrides]), overrides, _OF_A_RUN)
        config = validated(run_config(node))
        name = str(checkpoint.folder)
        own = Path("outputs", "audit", f"{Path(run).resolve().name}_{checkpoint.folder.name}")
    folder = AuditFolder(output or own)
    folder.begin(_settings(config, name))
    print(f"== {name}: to {folder.path}", flush=True)
    title = f"Credit of {name}"
    print(f"\n{asyncio.run(audit(config, checkpoint, folder, title))}", flush=True)


def _node(overrides: list[str]) -> DictConfig:
    nodes = check_overrides("train", [*_DEFAULTS, *overrides])
    if len(nodes) != 1:
        raise ConfigError("one audit at a time: other methods go to shadow.credits=[...]")
    return nodes[0]


def _settings(config: RunConfig, name: str) -> dict[str, Any]:
    """What the figures depend on, but for the budget: with a larger one an audit goes on."""
    asked = ("temperature", "top_p", "top_k", "max_response_tokens", "group_size")
    return {
        "model": name,
        "train.prompts_per_step": config.train.prompts_per_step,
        "model.dtype": config.model.dtype,
        "train.seed": config.train.seed,
        **{f"rollout.{k}": getattr(config.rollout, k) for k in asked},
        **{f"data.{k}": v for k, v in asdict(config.data).items() if k != "eval"},
        **{f"audit.{k}": v for k, v in asdict(config.audit).items() if k != "continuations"},
        **{f"verifier.{k}": asdict(getattr(config.verifier, k)) for k in ("rewards", "format")},
        "verifier.answer_pattern": config.verifier.answer_pattern,
        "advantage": config.advantage,
        "credit": config.credit,
        "shadow.credits": config.shadow.credits,
    }


if __name__ == "__main__":
    main()
