"""Weights & Biases."""

import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr.telemetry.run_folder import RunFolder, replacing
from rlvr.telemetry.sinks.base import SINKS, Row, Sink, why

_INIT_S = 30.0  # how long an online run may take to begin
_FINISH_S = 8.0  # and to upload its rest at the end; what is left can be synced from the folder


@SINKS.register("wandb")
@dataclass
class Wandb(Sink):
    """A wandb run; offline where wandb cannot be reached, resumed where the folder has one."""

    mode: str = "offline"  # online | offline
    project: str = "rlvr"
    run: str | None = None  # default: the name of the folder

    def start(self, folder: RunFolder, config: Mapping[str, Any], step: int) -> None:
        self._run: Any = None
        if "weave" not in sys.modules:  # else it is in use; wandb recommends it otherwise
            os.environ.setdefault("WANDB_DISABLE_WEAVE", "true")
        import wandb  # slow, and needless when disabled

        self._wandb = wandb
        told = f"offline; `wandb sync {folder.path}/wandb/offline-run-*` uploads the run."
        try:
            if self.mode == "online" and not wandb.login(prompt=False, verify=False):
                raise ConnectionError("not logged in, `wandb login` changes that")
            self._run = self._init(self.mode, folder, config)
            told = self._run.url if self.mode == "online" else told
        except Exception as error:
            if self.mode == "offline":
                raise
            print(f"wandb: not reachable, so the run is kept offline ({why(error)}).", flush=True)
            wandb.teardown()  # its process would take the run's id for one that is in use
            self._run = self._init("offline", folder, config)
        # Rows carry their own step: a resumed run may repeat some, and wandb's counter only grows.
        self._run.define_metric("*", step_metric="step")
        print(f"wandb: {told}", flush=True)

    def log(self, row: Row) -> None:
        """Send a row; None is left out."""
        self._run.log({name: value for name, value in row.items() if value is not None})

    def table(self, name: str, step: int, rows: Sequence[Row]) -> None:
        data = [list(row.values()) for row in rows]
        table = self._wandb.Table(columns=list(rows[0]), data=data)
        self._run.log({name: table, "step": step})

    def warn(self, step: int, name: str, words: str) -> None:
        self._run.alert(title=name, text=f"step {step}: {words}", level="WARN", wait_duration=0)

    def summary(self, values: Row) -> None:
        self._run.summary.update(dict(values))

    def close(self, finished: bool) -> None:
        """End the run, as failed unless ``finished``, and stop wandb's own processes."""
        try:
            if self._run is not None:
                self._run.finish(exit_code=0 if finished else 1)
        finally:
            self._wandb.teardown()

    def _init(self, mode: Any, folder: RunFolder, config: Mapping[str, Any]) -> Any:
        settings = self._wandb.Settings(
            silent=True,
            console="off",  # it and the progress bar would both stand in for stdout
            init_timeout=_INIT_S,
            finish_timeout=_FINISH_S,
        )
        return self._wandb.init(
            mode=mode,
            project=self.project,
            name=self.run or folder.path.resolve().name,
            dir=str(folder.path),
            id=_identity(folder),
            resume="allow",
            config=dict(config),
            settings=settings,
        )


def _identity(folder: RunFolder) -> str:
    """The run's id, kept in the folder so that a resumed run goes on in the same place."""
    file = folder.path / "wandb" / "id"
    if not file.exists():
        with replacing(file) as temporary:
            temporary.write_text(secrets.token_hex(4), encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()
