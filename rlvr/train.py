"""``python -m rlvr.train [overrides]``: train a policy. ``--help`` lists what can be set.

``--multirun credit=uniform,delta train.seed=0,1,2`` trains one policy for every combination, one
after the other with the same engines, each in a folder of its own under ``train.output_dir``.
"""

import asyncio
import atexit
import gc
import logging
import sys

import hydra
import ray
import torch
from omegaconf import DictConfig

from rlvr.errors import for_people
from rlvr.hydra_config import CONFIG_PATH, check_overrides, register, run_config, sweep_name
from rlvr.loop.run import Session
from rlvr.loop.validate import validated
from rlvr.plan.compare import announced
from rlvr.prepare.needs import prepare_missing


def main() -> None:
    logging.getLogger().setLevel(logging.WARNING)
    torch.set_num_threads(1)  # packing takes milliseconds, but threads wait for busy cores
    gc.freeze()  # what is imported lives on: no collection need go through it again,
    atexit.register(gc.unfreeze)  # but the last: nanobind takes what is left for leaked
    with for_people():  # of all runs of a sweep, before the first one starts
        register()
        for node in check_overrides("train", sys.argv[1:]):
            config = run_config(node)
            prepare_missing(config)
            validated(config)
    session = Session()
    with asyncio.Runner() as runner:

        @hydra.main(config_path=CONFIG_PATH, config_name="train", version_base="1.3")
        def train(node: DictConfig) -> None:
            with for_people():  # in here: Hydra would print others its own way
                config = run_config(node)
                if name := sweep_name(sys.argv[1:]):
                    print(f"\n== {name}", flush=True)
                    config.train.output_dir += f"/{name}"
                    if config.train.checkpoint_dir:
                        config.train.checkpoint_dir += f"/{name}"
                config = validated(config)
                print(announced(config), flush=True)
                runner.run(session.train(config))

        try:
            train()
        finally:
            runner.run(session.close())
            ray.shutdown()


if __name__ == "__main__":
    main()
