"""Weights & Biases, which watches the run and can never break it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from rlvr.config import TelemetryConfig
from rlvr.telemetry.run_folder import RunFolder, write_text

_INIT_S = 30.0  # how long an online run may take to begin
_FINISH_S = 8.0  # and to upload its rest at the end; what is left can be synced from the folder


class Tracker:
    """A wandb run. Its first error is reported once and turns it off; training goes on."""

    def __init__(
        self, config: TelemetryConfig, folder: RunFolder, say: Callable[[str], None] = print
    ) -> None:
        """Set up; ``say`` takes the sentences for the user."""
        self._config = config
        self._folder = folder
        self._say = say
        self._wandb: ModuleType | None = None
        self._run: Any = None
        self._failed = False

    def start(self, config: Mapping[str, Any]) -> None:
        """Begin the run, or go on with the folder's own; ``config`` is what wandb shows of it."""
        if self._config.wandb != "disabled":
            self._guarded(lambda: self._begin(dict(config)))

    def log(self, row: Mapping[str, Any]) -> None:
        """Send a row of metrics with its ``step``; None is left out."""
        known = {name: value for name, value in row.items() if value is not None}
        self._guarded(lambda: self._run and self._run.log(known))

    def table(self, name: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Send the rows of a step, all with the same keys, as a table."""
        data = [list(row.values()) for row in rows]

        def send() -> None:
            if self._run and self._wandb:
                table = self._wandb.Table(columns=list(rows[0]), data=data)
                self._run.log({name: table, "step": step})

        self._guarded(send)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set the run's summary values."""
        self._guarded(lambda: self._run and self._run.summary.update(dict(values)))

    def close(self, finished: bool) -> None:
        """End the run, as failed unless ``finished``, and stop wandb's own processes."""
        self._guarded(lambda: self._run and self._run.finish(exit_code=0 if finished else 1))
        self._guarded(lambda: self._wandb and self._wandb.teardown())
        self._run = self._wandb = None

    def _begin(self, config: dict[str, Any]) -> None:
        import wandb  # slow, and needless when disabled

        self._wandb = wandb
        mode = str(self._config.wandb)
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            self._say(
                "wandb: not logged in, so the run is kept offline. `wandb login` changes that."
            )
            mode = "offline"
        try:
            self._run = self._init(mode, config)
        except Exception as error:
            if mode == "offline":
                raise
            self._say(f"wandb: not reachable, so the run is kept offline ({_first_line(error)}).")
            mode = "offline"
            self._run = self._init(mode, config)
        # Rows carry their own step: a resumed run may repeat some, and wandb's counter only grows.
        self._run.define_metric("*", step_metric="step")
        if mode == "online":
            self._say(f"wandb: {self._run.url}")
        else:
            self._say(
                "wandb: offline; "
                f"`wandb sync {self._folder.path}/wandb/offline-run-*` uploads the run."
            )

    def _init(self, mode: str, config: dict[str, Any]) -> Any:
        assert self._wandb is not None
        settings = self._wandb.Settings(
            silent=True,
            console="off",  # it and the progress bar would both stand in for stdout
            init_timeout=_INIT_S,
            finish_timeout=_FINISH_S,
        )
        return self._wandb.init(
            mode=mode,
            project=self._config.project,
            name=self._config.name or self._folder.path.resolve().name,
            dir=str(self._folder.path),
            id=self._identity(),
            resume="allow",
            config=config,
            settings=settings,
        )

    def _identity(self) -> str:
        """The run's id, kept in the folder so that a resumed run goes on in the same place."""
        file = self._folder.path / "wandb" / "id"
        if not file.exists():
            write_text(file, secrets.token_hex(4))
        return file.read_text(encoding="utf-8").strip()

    def _guarded(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:
            self._run = None
            if not self._failed:
                self._say(
                    f"wandb: turned off after an error, training goes on ({_first_line(error)}). "
                    f"{self._folder.metrics} has every metric."
                )
            self._failed = True


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
