"""``python -m rlvr.report RUN [RUN ...]``: runs and evaluations, at a glance or side by side."""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlvr.errors import ConfigError, for_people
from rlvr.evaluation import settings
from rlvr.evaluation.folder import EvaluationFolder, estimates, markdown, table
from rlvr.plan.compare import compared, stages_beside
from rlvr.plan.hardware import Gpu, gpu, gpu_here
from rlvr.telemetry.page.runs import EvaluationRecord, RunsPage
from rlvr.telemetry.plot import plot
from rlvr.telemetry.record import RunRecord
from rlvr.telemetry.table import comparison

_REFRESH_S = 5.0


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m rlvr.report",
        description="Compare runs, finished or not. 'a -> b' is the mean over the first and over "
        "the last tenth of the steps (at most 10), or an evaluation before and after.",
    )
    parser.add_argument(
        "folders", nargs="+", metavar="RUN", help="a run's folder, or one of rlvr evaluate"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw the curves (.png ...)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also make a page for a browser")
    parser.add_argument("--live", action="store_true", help="renew the page until the runs end")
    parser.add_argument("--gpu", help="that the runs had, to compare with their plans: h100, ...")
    options = parser.parse_args(arguments)
    if options.live and not options.html:
        parser.error("--live renews a page: name it with --html FILE")
    with for_people():
        found = {path: _evaluation(path) for path in options.folders}
        runs = [path for path, own in found.items() if own is None]
        evaluations = list(filter(None, found.values()))
        records = [RunRecord.read(run) for run in runs]
        told = [comparison(records)] if records else []
        print("\n\n".join([*told, *(own.told for own in evaluations)]))
        device = gpu(options.gpu) if options.gpu else gpu_here()
        if device:
            for stages in filter(None, (compared(record, device) for record in records)):
                print(f"\n{stages}")
        try:
            if options.plot:
                plot(records, options.plot)
        except ImportError:
            raise ConfigError("--plot needs matplotlib: pip install matplotlib") from None
        except (OSError, ValueError) as error:
            raise ConfigError(f"--plot {options.plot}: {error}") from error
        if options.html:
            _make_page(runs, records, evaluations, options.html, device, options.live)


@dataclass(frozen=True)
class _Evaluation(EvaluationRecord):
    told: str  # in the terminal


def _evaluation(path: str) -> _Evaluation | None:
    """The evaluation whose folder this is; None if it is none."""
    folder = EvaluationFolder(Path(path))
    if (read := settings.read(folder.path)) is None:
        return None
    result = estimates(folder.measures())
    return _Evaluation(path, table(result), markdown(str(read.get("model", path)), result))


def _make_page(
    runs: Sequence[str],
    records: Sequence[RunRecord],
    evaluations: Sequence[EvaluationRecord],
    path: Path,
    device: Gpu | None,
    live: bool,
) -> None:
    """Write the page; a ``live`` one again and again, until all runs have ended."""
    page = RunsPage(path, lambda record: stages_beside(record, device) if device else None)
    try:
        while live and any(record.summary is None for record in records):
            page.write(records, _REFRESH_S, evaluations)
            print(f"{path}: {_progress(records)}", flush=True)
            time.sleep(_REFRESH_S)
            records = [RunRecord.read(run) for run in runs]
    finally:  # what is left reloads itself no more
        page.write(records, evaluations=evaluations)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def _progress(records: Sequence[RunRecord]) -> str:
    done = (record.steps[-1]["step"] if record.steps else 0 for record in records)
    return f"steps {', '.join(map(str, done))} are shown, until the runs end or Ctrl-C"


if __name__ == "__main__":
    main()
