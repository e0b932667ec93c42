"""``python -m rlvr.export CHECKPOINT FOLDER``: the policy of a checkpoint as a Hugging Face folder.

CHECKPOINT is ``.../step_N``, or a run's folder or what holds its checkpoints, of which the newest
whole one is taken: a path, or what fsspec has a name for, such as ``s3://bucket/run``.
Needs no Ray, no DeepSpeed and no GPU, and memory for one file of the model at a time.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from rlvr.errors import RunError, RunFolderError, for_people
from rlvr.learner.model_folder import write_weights
from rlvr.learner.state_files import StateFiles
from rlvr.loop.checkpoints import Checkpoints, find_checkpoint
from rlvr.storage import Folder


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m rlvr.export",
        description="Write the policy of a checkpoint as an ordinary Hugging Face folder.",
    )
    parser.add_argument("checkpoint", help="RUN/checkpoints/step_N, or RUN: its newest")
    parser.add_argument("folder", type=Path, help="where to; it must not be there yet")
    options = parser.parse_args(arguments)
    with for_people():
        print(f"{options.folder}: {export(Folder.at(options.checkpoint), options.folder)}")


def export(source: Folder, folder: Path) -> str:
    """Write ``folder`` whole or not at all; returns what was written."""
    if folder.exists():
        raise RunFolderError(f"{folder} is already there. Name another folder.")
    if (found := find_checkpoint(source)) is None:
        own = Checkpoints.of_run(source).folder
        raise RunFolderError(
            f"{source}: neither a checkpoint nor a run that has one (there is none in {own})."
        )
    dtype = found.configuration["model"]["dtype"]
    partial = folder.with_name(f"{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name in (model := found.folder / "model").sizes():
            (partial / name).write_bytes(model.read(name))
        write_weights(StateFiles(found.learner), getattr(torch, dtype), partial)
        partial.rename(folder)
    except OSError as error:
        raise RunError(f"{folder} could not be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return f"the policy after step {found.step}, in {dtype}"


if __name__ == "__main__":
    main()
