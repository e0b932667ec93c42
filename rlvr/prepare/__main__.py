"""``python -m rlvr.prepare [overrides]``: fetch the model and the data of a run, and plan it."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rlvr.errors import ConfigError, for_people
from rlvr.hydra_config import check_overrides, register, run_config
from rlvr.loop.validate import validated
from rlvr.plan.compare import announced
from rlvr.prepare.needs import CATALOGUE, prepare_data, prepare_model


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m rlvr.prepare",
        description="Fetch what a run needs and this machine lacks: the model from its hub, and "
        "the files of data that the catalogue knows. What was interrupted goes on.",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for rlvr.train")
    parser.add_argument("--catalogue", type=Path, default=CATALOGUE, help="another one, in YAML")
    options = parser.parse_intermixed_args(arguments)
    with for_people():
        register()
        nodes = check_overrides("train", options.overrides)
        if len(nodes) != 1:
            raise ConfigError("one run at a time: give one value a key")
        config = run_config(nodes[0])
        prepare_data(config, options.catalogue)
        prepare_model(config)
        print(announced(validated(config)), flush=True)


if __name__ == "__main__":
    main()
