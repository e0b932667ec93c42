"""``python -m rlvr.train [overrides]``: train a policy. ``--help`` lists what can be set."""

from __future__ import annotations

import logging
import sys

import hydra
from omegaconf import DictConfig

from rlvr.errors import ConfigError, RunError
from rlvr.hydra_config import CONFIG_PATH, check_overrides, register, run_config
from rlvr.loop.run import run
from rlvr.loop.shape import check


@hydra.main(config_path=CONFIG_PATH, config_name="train", version_base="1.3")
def train(node: DictConfig) -> None:
    """Validate, then run."""
    try:
        config = check(run_config(node))
        run(config)
    except ConfigError as error:
        sys.exit(f"\nThis configuration cannot run:\n{error}\n")
    except KeyboardInterrupt:
        sys.exit("\nInterrupted.")
    except Exception as error:
        known = [e for e in _causes(error) if isinstance(e, RunError | ConfigError)]
        if not known:
            raise
        sys.exit(f"\nThe run has failed:\n{known[0]}\n")


def _causes(error: BaseException) -> list[BaseException]:
    """The single errors inside of exception groups."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for e in error.exceptions for leaf in _causes(e)]
    return [error]


def main() -> None:
    """Entry point."""
    logging.getLogger().setLevel(logging.WARNING)
    register()
    try:
        check_overrides("train", sys.argv[1:])
    except ConfigError as error:
        sys.exit(f"\nThis configuration cannot run:\n{error}\n")
    train()


if __name__ == "__main__":
    main()
