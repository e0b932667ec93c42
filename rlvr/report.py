"""``python -m rlvr.report RUN [RUN ...]``: a run at a glance, or several side by side."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rlvr.errors import ConfigError, for_people
from rlvr.plan.compare import compared
from rlvr.plan.hardware import gpu, gpu_here
from rlvr.telemetry.plot import plot
from rlvr.telemetry.record import RunRecord
from rlvr.telemetry.table import comparison


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m rlvr.report",
        description="Compare runs, finished or not. 'a -> b' is the mean over the first and over "
        "the last tenth of the steps (at most 10), or an evaluation before and after.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder (train.output_dir)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw the curves (.png ...)")
    parser.add_argument("--gpu", help="that the runs had, to compare with their plans: h100, ...")
    options = parser.parse_args(arguments)
    with for_people():
        records = [RunRecord.read(run) for run in options.runs]
        print(comparison(records))
        if device := gpu(options.gpu) if options.gpu else gpu_here():
            for told in filter(None, (compared(record, device) for record in records)):
                print(f"\n{told}")
        try:
            if options.plot:
                plot(records, options.plot)
        except ImportError:
            raise ConfigError("--plot needs matplotlib: pip install matplotlib") from None
        except (OSError, ValueError) as error:
            raise ConfigError(f"--plot {options.plot}: {error}") from error


if __name__ == "__main__":
    main()
