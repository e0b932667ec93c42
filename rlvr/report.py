"""``python -m rlvr.report RUN [RUN ...]``: a run at a glance, or several side by side."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rlvr.telemetry.plot import plot
from rlvr.telemetry.record import RunRecord
from rlvr.telemetry.run_folder import RunFolderError
from rlvr.telemetry.table import comparison


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, write the picture if asked for; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m rlvr.report",
        description="Compare runs, finished or not. 'a -> b' is the mean over the first and over "
        "the last tenth of the steps (at most 10), or an evaluation before and after.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder (train.output_dir)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw the curves (.png ...)")
    options = parser.parse_args(arguments)
    try:
        records = [RunRecord.read(run) for run in options.runs]
        print(comparison(records))
        if options.plot:
            plot(records, options.plot)
    except RunFolderError as error:
        print(error, file=sys.stderr)
        return 1
    except ImportError:
        print("--plot needs matplotlib: pip install matplotlib", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"--plot {options.plot}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
