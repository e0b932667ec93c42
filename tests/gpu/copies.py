"""GB/s of plain copies: in a GPU, from pinned memory of the host, and to another GPU."""

import json
import statistics
import time

import torch

SIZE = 2**30


def rate(target: torch.Tensor, source: torch.Tensor) -> float:
    """The median of five copies, in GB/s."""
    taken = []
    for _ in range(6):
        for device in {x.device for x in (target, source) if x.is_cuda}:
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        target.copy_(source, non_blocking=True)
        for device in {x.device for x in (target, source) if x.is_cuda}:
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - started)
    return source.nbytes / statistics.median(taken[1:]) / 1e9


def main() -> None:
    here = torch.ones(SIZE, dtype=torch.uint8, device="cuda:0")
    found = {
        "device": rate(torch.empty_like(here), here),
        "host": rate(here, torch.ones(SIZE, dtype=torch.uint8).pin_memory()),
        "peer": 0.0,
    }
    if torch.cuda.device_count() > 1:
        there = torch.zeros_like(here, device="cuda:1")
        found["peer"] = rate(there, here)
        assert bool((there == 1).all()), "a copy between GPUs is not a copy"
    print(json.dumps(found))


if __name__ == "__main__":
    main()
