"""What a folder of results is of, so that it can be gone on with and is not mixed with another."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlvr.errors import RunFolderError
from rlvr.telemetry.run_folder import write_text

_NAME = "settings.json"


def begin(folder: Path, settings: Mapping[str, Any], what: str) -> None:
    """Write down, or find again, what is asked of whom.

    Raises RunFolderError if the folder is of another ``what`` and has anything of it.
    """
    if (known := read(folder)) is None or [p.name for p in folder.iterdir()] == [_NAME]:
        write_text(folder / _NAME, json.dumps(settings, indent=2) + "\n")
        return
    asked = json.loads(json.dumps(settings))
    if other := [k for k in {**known, **asked} if known.get(k) != asked.get(k)]:
        told = "".join(f"\n- {k}: {known.get(k)} there, {asked.get(k)} now" for k in other)
        raise RunFolderError(f"{folder} holds another {what}:{told}\nName another folder.")


def folder_name(model: str) -> str:
    """What results of ``model.path`` are called: a model that a run saved by the run's name."""
    *_, above, own = "", *Path(model.rstrip("/")).parts
    return f"{above}_{own}" if own == "model" and above else own


def read(folder: Path) -> dict[str, Any] | None:
    """None: nothing was begun here."""
    path = folder / _NAME
    try:
        return json.loads(path.read_text()) if path.exists() else None
    except ValueError as error:
        raise RunFolderError(f"{path} is damaged: {error}") from error
