"""``python -m rlvr.export CHECKPOINT FOLDER``: the policy of a checkpoint as a Hugging Face folder.

CHECKPOINT is ``.../step_N``, or a run's folder or what holds its checkpoints, of which the newest
whole one is taken: a path, or what fsspec has a name for, such as ``s3://bucket/run``.
Needs no Ray, no DeepSpeed and no GPU, and memory for one file of the model at a time. Of a run with
``learner.lora`` it merges the adapters into the model that they were trained on; with ``--adapter``
it writes them alone, as a folder of PEFT.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from rlvr.config import LoraConfig, ModelConfig
from rlvr.errors import RunError, RunFolderError, for_people
from rlvr.learner.adapter_files import MergedWeights, write_adapter
from rlvr.learner.model_folder import write_weights
from rlvr.learner.state_files import StateFiles
from rlvr.loop.checkpoint import Checkpoint
from rlvr.loop.checkpoints import Checkpoints, find_checkpoint
from rlvr.storage import Folder


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m rlvr.export",
        description="Write the policy of a checkpoint as an ordinary Hugging Face folder.",
    )
    parser.add_argument("checkpoint", help="RUN/checkpoints/step_N, or RUN: its newest")
    parser.add_argument("folder", type=Path, help="where to; it must not be there yet")
    parser.add_argument(
        "--adapter", action="store_true", help="of a run with learner.lora, its adapters alone"
    )
    options = parser.parse_args(arguments)
    with for_people():
        told = export(Folder.at(options.checkpoint), options.folder, adapter=options.adapter)
        print(f"{options.folder}: {told}")


def export(source: Folder, folder: Path, *, adapter: bool = False) -> str:
    """Write ``folder`` whole or not at all, its ``adapter`` alone; returns what was written."""
    if folder.exists():
        raise RunFolderError(f"{folder} is already there. Name another folder.")
    if (found := find_checkpoint(source)) is None:
        own = Checkpoints.of_run(source).folder
        raise RunFolderError(
            f"{source}: neither a checkpoint nor a run that has one (there is none in {own})."
        )
    model = ModelConfig(**found.configuration["model"])
    lora = LoraConfig(**found.configuration["learner"].get("lora", {}))
    if adapter and not lora.rank:
        raise RunFolderError(
            f"{found.folder} has no adapters: all weights were trained. Leave out --adapter."
        )
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        state = StateFiles(found.learner)
        if adapter:
            write_adapter(state, lora, model, partial)
        else:
            _write_model(found, MergedWeights(state, lora, model) if lora.rank else state, partial)
        partial.rename(folder)
    except OSError as error:
        raise RunError(f"{folder} could not be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if adapter:
        return f"the adapters after step {found.step}, of {model.path}"
    return f"the policy after step {found.step}, in {model.dtype}"


def _write_model(found: Checkpoint, weights: StateFiles | MergedWeights, folder: Path) -> None:
    described = found.folder / "model"
    for name in described.sizes():
        (folder / name).write_bytes(described.read(name))
    write_weights(weights, getattr(torch, found.configuration["model"]["dtype"]), folder)
    if isinstance(weights, MergedWeights):
        weights.check()


if __name__ == "__main__":
    main()
