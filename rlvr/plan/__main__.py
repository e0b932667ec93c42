"""``python -m rlvr.plan [--gpu NAME] [--sweep] [--json] [overrides]``: what a run needs."""

import argparse
import json
from collections.abc import Sequence

from rlvr.errors import ConfigError, for_people
from rlvr.hydra_config import check_overrides, register, run_config
from rlvr.loop.validate import validated
from rlvr.plan.hardware import GPUS, gpu, gpu_here
from rlvr.plan.layout import fastest, remedies
from rlvr.plan.plan import plan_of
from rlvr.plan.text import report
from rlvr.plan.workload import Assumptions, workload

_SHOWN = 5


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m rlvr.plan",
        description="Memory and time of a run, from its own command line: +recipe=delta_qwen3_8b "
        "cluster=1x8. Needs no GPU, no weights and no data.",
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for rlvr.train")
    parser.add_argument("--gpu", help=f"{', '.join(GPUS)}; default: this machine's, or h100")
    parser.add_argument("--sweep", action="store_true", help="the fastest layouts that fit")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--response", type=float, metavar="TOKENS", help="mean length expected")
    parser.add_argument("--prompt", type=int, metavar="TOKENS", default=Assumptions.prompt)
    parser.add_argument(
        "--active", type=float, metavar="SHARE", default=Assumptions.active, help="of the groups"
    )
    options = parser.parse_intermixed_args(arguments)
    assumed = Assumptions(options.response, options.prompt, options.active)
    with for_people():
        register()
        nodes = check_overrides("train", options.overrides)
        if len(nodes) != 1:
            raise ConfigError("a plan is of one run: give one value a key")
        config = run_config(nodes[0])
        device = (gpu(options.gpu) if options.gpu else gpu_here()) or GPUS["h100"]
        resolved = validated(config, files=False)
        plan = plan_of(resolved, device, workload(resolved, assumed))
        better, title = [], "fastest layouts that fit"
        if plan.gpu and options.sweep:
            better = fastest(config, plan, _SHOWN)
        elif plan.gpu and not plan.memory.fits:
            better, title = remedies(config, plan, _SHOWN), "it fits with"
        if options.json:
            told = [{"overrides": layout.overrides(), **layout.plan.as_json()} for layout in better]
            print(json.dumps({**plan.as_json(), "layouts": told}, indent=2))
        else:
            print(report(plan, better, title))


if __name__ == "__main__":
    main()
