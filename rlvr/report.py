"""``python -m rlvr.report RUN [RUN ...]``: a run at a glance, or several side by side."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from rlvr.errors import ConfigError, for_people
from rlvr.plan.compare import compared, stages_beside
from rlvr.plan.hardware import Gpu, gpu, gpu_here
from rlvr.telemetry.page.runs import RunsPage
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
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder (train.output_dir)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw the curves (.png ...)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also make a page for a browser")
    parser.add_argument("--live", action="store_true", help="renew the page until the runs end")
    parser.add_argument("--gpu", help="that the runs had, to compare with their plans: h100, ...")
    options = parser.parse_args(arguments)
    if options.live and not options.html:
        parser.error("--live renews a page: name it with --html FILE")
    with for_people():
        records = [RunRecord.read(run) for run in options.runs]
        print(comparison(records))
        device = gpu(options.gpu) if options.gpu else gpu_here()
        if device:
            for told in filter(None, (compared(record, device) for record in records)):
                print(f"\n{told}")
        try:
            if options.plot:
                plot(records, options.plot)
        except ImportError:
            raise ConfigError("--plot needs matplotlib: pip install matplotlib") from None
        except (OSError, ValueError) as error:
            raise ConfigError(f"--plot {options.plot}: {error}") from error
        if options.html:
            _make_page(options.runs, records, options.html, device, options.live)


def _make_page(
    runs: Sequence[str], records: Sequence[RunRecord], path: Path, device: Gpu | None, live: bool
) -> None:
    """Write the page; a ``live`` one again and again, until all runs have ended."""
    page = RunsPage(path, lambda record: stages_beside(record, device) if device else None)
    try:
        while live and any(record.summary is None for record in records):
            page.write(records, _REFRESH_S)
            print(f"{path}: {_progress(records)}", flush=True)
            time.sleep(_REFRESH_S)
            records = [RunRecord.read(run) for run in runs]
    finally:  # what is left reloads itself no more
        page.write(records)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def _progress(records: Sequence[RunRecord]) -> str:
    done = (record.steps[-1]["step"] if record.steps else 0 for record in records)
    return f"steps {', '.join(map(str, done))} are shown, until the runs end or Ctrl-C"


if __name__ == "__main__":
    main()
