"""Another process opens a GPU's memory of this one, as an engine opens a learner rank's."""

import json
import statistics
import time

import torch
import torch.multiprocessing as processes


def reader(received: processes.Queue, sent: processes.Queue) -> None:
    """Copy what was shared, and say how long it takes and what it holds."""
    tensor = received.get()
    taken = []
    for _ in range(6):
        torch.cuda.synchronize()
        started = time.perf_counter()
        own = tensor.clone()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    sent.put((tensor.nbytes / statistics.median(taken[1:]) / 1e9, own.sum().item()))
    received.get()  # the memory stays shared until the other side has heard


def main() -> None:
    spawned = processes.get_context("spawn")
    there, back = spawned.Queue(), spawned.Queue()
    tensor = torch.randint(0, 100, (2**27,), device="cuda", dtype=torch.int64)
    process = spawned.Process(target=reader, args=(there, back))
    process.start()
    there.put(tensor)
    gb_per_s, total = back.get(timeout=90)
    there.put(None)
    process.join(20)
    print(json.dumps({"gb_per_s": gb_per_s, "same": total == tensor.sum().item()}))


if __name__ == "__main__":
    main()
