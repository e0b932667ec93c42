"""``python -m rlvr.train [overrides]``: train a policy. ``--help`` lists what can be set.

``--multirun credit=uniform,delta train.seed=0,1,2`` trains one policy for every combination, one
after the other with the same engines, each in a folder of its own under ``train.output_dir``.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import hydra
import ray
from omegaconf import DictConfig

from rlvr.errors import ConfigError, RunError
from rlvr.hydra_config import CONFIG_PATH, check_overrides, register, run_config, sweep_name
from rlvr.loop.run import Session
from rlvr.loop.validate import validated


def main() -> None:
    """Entry point."""
    logging.getLogger().setLevel(logging.WARNING)
    register()
    with _errors_for_people():  # of all runs of a sweep, before the first one starts
        for node in check_overrides("train", sys.argv[1:]):
            validated(run_config(node))
    session = Session()
    with asyncio.Runner() as runner:

        @hydra.main(config_path=CONFIG_PATH, config_name="train", version_base="1.3")
        def train(node: DictConfig) -> None:
            with _errors_for_people():  # in here: Hydra would print others its own way
                config = run_config(node)
                if name := sweep_name(sys.argv[1:]):
                    print(f"\n== {name}", flush=True)
                    config.train.output_dir = f"{config.train.output_dir}/{name}"
                runner.run(session.train(validated(config)))

        try:
            train()
        finally:
            runner.run(session.close())
            ray.shutdown()


@contextmanager
def _errors_for_people() -> Iterator[None]:
    """Expected failures end the program with their message, all others with their traceback."""
    try:
        yield
    except ConfigError as error:
        sys.exit(f"\nThis configuration cannot run:\n{error}\n")
    except KeyboardInterrupt:
        sys.exit("\nInterrupted.")
    except Exception as error:
        known = [e for e in _causes(error) if isinstance(e, RunError | ConfigError)]
        if known:
            sys.exit(f"\nThe run has failed:\n{known[0]}\n")
        traceback.print_exc()  # here: Hydra would go on with a sweep and tell at its end
        sys.exit(1)


def _causes(error: BaseException) -> list[BaseException]:
    """The single errors inside of exception groups."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for e in error.exceptions for leaf in _causes(e)]
    return [error]


if __name__ == "__main__":
    main()
