"""``python -m rlvr.prepare [overrides]``: fetch the model and the data of a run, and plan it."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rlvr.data.catalogue import CATALOGUE
from rlvr.errors import ConfigError, for_people
from rlvr.hydra_config import check_overrides, register, run_config
from rlvr.loop.validate import validated
from rlvr.plan.compare import announced
from rlvr.prepare.needs import prepare_data, prepare_model

_NOTHING: dict[str, Any] = {"model.path": "", "data.train": [], "train.steps": 0}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m rlvr.prepare",
        description="Fetch what a run needs and this machine lacks: the model from its hub, and "
        "the files of data that the catalogue knows. What was interrupted goes on. Of what "
        "data.eval=[aime24] or model.path=NAME alone say, only that.",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for rlvr.train")
    parser.add_argument("--catalogue", type=Path, default=CATALOGUE, help="another one, in YAML")
    options = parser.parse_intermixed_args(arguments)
    with for_people():
        register()
        nodes = check_overrides("train", options.overrides)
        if len(nodes) != 1:
            raise ConfigError("one run at a time: give one value a key")
        node = nodes[0]
        lacking = OmegaConf.missing_keys(node)
        for key in lacking:
            OmegaConf.update(node, key, _NOTHING[key])
        config = run_config(node, options.catalogue)
        if not (config.model.path or config.data.train or config.data.eval):
            raise ConfigError("what is to be fetched? Name model.path, data.train or data.eval")
        prepare_data(config, options.catalogue)
        if config.model.path:
            prepare_model(config)
        if not lacking:
            print(announced(validated(config)), flush=True)


if __name__ == "__main__":
    main()
