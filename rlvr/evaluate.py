"""``python -m rlvr.evaluate [RUN] [overrides]``: a model, or a run's checkpoints, on questions."""

import argparse
import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray

from rlvr.config import RunConfig
from rlvr.errors import ConfigError, RunFolderError, for_people
from rlvr.evaluation.comparison import compared
from rlvr.evaluation.folder import EvaluationFolder
from rlvr.evaluation.settings import folder_name
from rlvr.export import export
from rlvr.hydra_config import as_in, check_overrides, register, run_config
from rlvr.loop.benchmark import benchmark
from rlvr.loop.checkpoint import Checkpoint
from rlvr.loop.checkpoints import Checkpoints, find_checkpoint
from rlvr.loop.validate import validated
from rlvr.prepare.needs import prepare_missing
from rlvr.storage import Folder

_NOTHING_TRAINED = ["data.train=[]", "train.steps=0", "learner.ranks=0"]
# Is asked as it was in the run.
_OF_A_RUN = ("model", "data", "rollout", "verifier", "environment", "evaluation")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m rlvr.evaluate",
        description="Accuracy of a model, or of every checkpoint of a run, on data.eval: greedy "
        "and, with evaluation.samples=N, avg@N, pass@k and maj@k, with intervals. All GPUs of the "
        "cluster have engines. What was interrupted goes on with the same command.",
    )
    parser.add_argument("what", nargs="*", metavar="RUN | KEY=VALUE", help="as for rlvr.train")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="of the result")
    parser.add_argument(
        "--compare", nargs=2, type=Path, metavar="FOLDER", help="two results, pair by pair"
    )
    options = parser.parse_intermixed_args(arguments)
    with for_people():
        if options.compare:
            print(compared(*options.compare))
            return
        runs = [word for word in options.what if "=" not in word]
        overrides = [word for word in options.what if "=" in word]
        register()
        try:
            if not runs:
                evaluate_model(overrides, options.output)
            for run in map(Path, runs):
                evaluate_checkpoints(run, overrides, options.output)
        finally:
            ray.shutdown()


def evaluate_model(overrides: list[str], output: Path | None = None) -> None:
    """``model.path``; to a folder named after it."""
    config = _config(overrides)
    name = folder_name(config.model.path)
    _evaluate(config, config.model.path, output or Path("outputs", "evaluation", name), step=0)


def evaluate_checkpoints(run: Path, overrides: list[str], output: Path | None = None) -> None:
    """All that ``run`` has; each to a folder of its own, by default below the run's."""
    checkpoints = Checkpoints.of_run(Folder.at(str(run)))
    if not checkpoints.steps:
        told = f"{run} has no checkpoints: there are none in {checkpoints.folder}."
        if (run / "model").is_dir():
            told += f" Its last model: rlvr evaluate model.path={run}/model ..."
        raise RunFolderError(told)
    for step in checkpoints.steps:
        path = checkpoints.at(step)
        folder = (output or run / "benchmark") / path.name
        model = folder / "model"  # where all nodes find it, as long as they need it
        shutil.rmtree(model, ignore_errors=True)
        try:
            export(path, model)
            found = find_checkpoint(path)
            assert found is not None
            config = _config([*overrides, f"model.path={model}"], of=found)
            _evaluate(config, str(path), folder, step)
        finally:
            shutil.rmtree(model, ignore_errors=True)


def _evaluate(config: RunConfig, name: str, output: Path, step: int) -> None:
    if not config.data.eval:
        raise ConfigError("data.eval: must name what to ask, as in data.eval=[aime24,own.jsonl]")
    prepare_missing(config)
    config = validated(config)
    folder = EvaluationFolder(output)
    folder.begin(_settings(config, name))
    print(f"== {name}: to {output}", flush=True)
    asyncio.run(benchmark(config, folder, step))
    print(f"\n{folder.finish(name)}", flush=True)


def _config(overrides: list[str], of: Checkpoint | None = None) -> RunConfig:
    """The command line's; what it does not say is as in the run ``of`` which the checkpoint is."""
    nodes = check_overrides("train", [*_NOTHING_TRAINED, *overrides])
    if len(nodes) != 1:
        raise ConfigError("one evaluation at a time: give one value a key")
    return run_config(
        nodes[0] if of is None else as_in(of.configuration, nodes[0], overrides, _OF_A_RUN)
    )


def _settings(config: RunConfig, name: str) -> dict[str, Any]:
    """What the figures depend on."""
    limit = config.evaluation.max_response_tokens or config.rollout.max_response_tokens
    asked = ("greedy", "samples", "temperature", "top_p", "limit")
    data = {k: v for k, v in asdict(config.data).items() if k not in ("train", "shuffle")}
    return {
        "model": name,
        "model.dtype": config.model.dtype,
        "train.seed": config.train.seed,
        **{f"evaluation.{k}": getattr(config.evaluation, k) for k in asked},
        "evaluation.max_response_tokens": limit,
        **{f"data.{k}": v for k, v in data.items()},
        "verifier.answer_pattern": config.verifier.answer_pattern,
    }


if __name__ == "__main__":
    main()
