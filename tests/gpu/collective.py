"""A broadcast among all GPUs of this machine, under torch.distributed.run."""

import json
import os
import statistics
import time
from datetime import timedelta

import torch
import torch.distributed as dist


def main() -> None:
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", timeout=timedelta(seconds=90), device_id=device)
    tensor = torch.full((2**30,), dist.get_rank() + 1, dtype=torch.uint8, device=device)
    taken = []
    for _ in range(6):
        dist.barrier()
        torch.cuda.synchronize()
        started = time.perf_counter()
        dist.broadcast(tensor, 0)
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    assert bool((tensor == 1).all()), "a broadcast brought something else"
    if dist.get_rank() == 0:
        rate = tensor.nbytes / statistics.median(taken[1:]) / 1e9
        print(json.dumps({"ranks": dist.get_world_size(), "gb_per_s": rate}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
