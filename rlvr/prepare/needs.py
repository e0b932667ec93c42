"""What a run needs on this machine: files of data, and a model."""

from pathlib import Path

from rlvr.config import RunConfig
from rlvr.data.catalogue import CATALOGUE, catalogue, unknown_name
from rlvr.data.sources import files
from rlvr.errors import ConfigError, RunError
from rlvr.prepare.files import changed, make

_OF_A_MODEL = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


def missing(config: RunConfig) -> list[Path]:
    """Files of data that are not here."""
    return [file for file in _files(config) if not file.exists()]


def prepare_missing(config: RunConfig) -> None:
    """Make what is missing, if the catalogue knows all of it."""
    lacking, known = missing(config), catalogue()
    if lacking and all(file.name in known for file in lacking):
        prepare_data(config)


def prepare_data(config: RunConfig, known: Path = CATALOGUE) -> None:
    """Make every file of data that is missing; then ConfigError names those that nobody knows."""
    entries, unknown = catalogue(known), []
    for file in _files(config):
        if file.exists():
            altered = ", but not as it was fetched: delete it to fetch it again"
            print(f"{file}: is there{altered if changed(file) else ''}", flush=True)
        elif file.name in entries:
            print(f"{file}: {make(file, entries[file.name]):,} rows", flush=True)
        else:
            told = unknown_name(str(file)) or f"and not in {known}"
            unknown.append(f"- {file}: no such file, {told}\n")
    if unknown:
        told = "conf/README.md says what a file of your own looks like."
        raise ConfigError("".join(unknown) + told)


def prepare_model(config: RunConfig) -> None:
    """Bring the model into the cache of its hub; RunError if that fails."""
    from huggingface_hub import snapshot_download

    path = config.model.path
    if Path(path).expanduser().is_dir():
        print(f"{path}: is there", flush=True)
        return
    try:
        folder = snapshot_download(path, allow_patterns=_OF_A_MODEL)
    except Exception as error:  # of the network, of the hub, of the disk
        raise RunError(f"model.path={path}: cannot be fetched: {error}") from error
    print(f"{path}: in {folder}", flush=True)


def _files(config: RunConfig) -> list[Path]:
    return [Path(name).expanduser() for name in (*files(config.data.train), *config.data.eval)]
