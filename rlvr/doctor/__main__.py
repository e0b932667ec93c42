"""``python -m rlvr.doctor [--address RAY] [--folder FOLDER]``: what is wrong, and what mends it."""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rlvr.doctor.findings import Finding, Machine, State, examine
from rlvr.errors import for_people

_WITHIN_S = 120.0
_SKEW_S = 5.0


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m rlvr.doctor",
        description="Look at this machine, or with --address at every node of a Ray cluster. "
        "Status 0: runs can start; 1: something keeps them from it.",
    )
    parser.add_argument("--address", help="of a Ray cluster, as in cluster.address")
    parser.add_argument("--folder", default="outputs", help="where runs shall write")
    options = parser.parse_args(arguments)
    with for_people():
        if options.address:
            machines = _nodes(options.address, options.folder)
        else:
            machines = [examine(options.folder)]
    bad = 0
    for machine in machines:
        print(f"\n{machine.host}")
        for finding in [*machine.findings, *_beside(machine, machines[0])]:
            print(_line(finding))
            bad += finding.state is State.BAD
    words = "nothing keeps runs from starting" if not bad else f"{bad} to mend before a run"
    print(f"\n{words}")
    sys.exit(bad > 0)


def _line(finding: Finding) -> str:
    line = f"  {finding.state:5}{finding.name:15}{finding.told}"
    if finding.state is State.GOOD or not finding.mend:
        return line
    return f"{line}\n{'':22}-> {finding.mend}"


def _nodes(address: str, folder: str) -> list[Machine]:
    """This machine first, then every node of the cluster."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from rlvr.loop.cluster import join

    begin = time.time()
    here = examine(folder)
    join(address)
    look: Any = ray.remote(num_cpus=0)(examine)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked = {
        node["NodeManagerAddress"]: look.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(folder)
        for node in nodes
    }
    machines = [here]
    for name, reference in asked.items():
        try:
            machine = ray.get(reference, timeout=_WITHIN_S)
            clock = _clock(machine.clock, since=begin, until=time.time())
            machines.append(replace(machine, findings=[*machine.findings, clock]))
        except ray.exceptions.RayError as error:
            told = Finding(
                "Ray", State.BAD, f"no answer: {str(error).splitlines()[0]}", "ray status"
            )
            machines.append(Machine(name, {}, begin, [told]))
    return machines


def _clock(told: float, since: float, until: float) -> Finding:
    """Of a node that told the time between the two."""
    off = max(0.0, since - told, told - until)
    mend = "let NTP set it: tokens and the order of logs depend on it"
    state = State.GOOD if off < _SKEW_S else State.DOUBTFUL
    return Finding("clock", state, f"{off:.0f} s from here", mend)


def _beside(machine: Machine, first: Machine) -> list[Finding]:
    """Whether a node has the packages of the machine that starts runs."""
    if machine is first or not machine.versions:
        return []
    there, here = machine.versions, first.versions
    other = [
        f"{name} {there.get(name, 'missing')} instead of {here.get(name, 'none')}"
        for name in {**here, **there}
        if there.get(name) != here.get(name)
    ]
    state = State.BAD if other else State.GOOD
    mend = "set both up from the same commit: bash launch/setup.sh"
    return [Finding("versions", state, "; ".join(other) or "as here", mend)]


if __name__ == "__main__":
    main()
