"""What a learner rank needs for updates alone, in host memory while others have the GPU."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

# DeepSpeed's own buffers, by the names that its optimizers of ZeRO 1, 2 and 3 give them. Its
# ``offload_states`` takes no optimizer but its own.
_BUFFERS = (
    "single_partition_of_fp32_groups",
    "fp32_partitioned_groups_flat",
    "grad_partitions_flat_buffer",
)


class HostState:
    """Master weights, optimizer moments and gradient buffers of a DeepSpeed engine.

    While they are away the tensors themselves are on the host, so that a checkpoint can be
    written of them; the device's storages are emptied, whatever else may be a view of them, and
    the views are whole again afterwards.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._away: list[tuple[Tensor, Tensor]] = []  # and their data on the device
        self._copies: list[tuple[torch.UntypedStorage, torch.UntypedStorage]] = []
        self._scratch: list[tuple[torch.UntypedStorage, int]] = []  # and its bytes

    def leave(self) -> None:
        """Copy to the host, and free the device's memory."""
        copies: dict[int, torch.UntypedStorage] = {}
        for tensor in self._tensors():
            if not tensor.untyped_storage().resizable():  # it was read from a checkpoint
                tensor.data = tensor.data.clone()
            own = tensor.untyped_storage()
            if own._cdata not in copies:
                host = torch.empty(own.nbytes(), dtype=torch.uint8, pin_memory=own.is_cuda)
                copies[own._cdata] = host.untyped_storage().copy_(own)
                self._copies.append((own, copies[own._cdata]))
            self._away.append((tensor, tensor.data))
            view = torch.empty(0, dtype=tensor.dtype)
            view.set_(copies[own._cdata], tensor.storage_offset(), tensor.shape, tensor.stride())
            tensor.data = view
        buckets = getattr(self._engine.optimizer, "ipg_buckets", {}).values()
        for buffer in (b for bucket in buckets for b in _tensors(bucket.buffer)):
            own = buffer.untyped_storage()
            self._scratch.append((own, own.nbytes()))  # gradients pass through; nothing stays
        for own, _ in (*self._copies, *self._scratch):
            own.resize_(0)

    def return_(self) -> None:
        """Copy back, bit for bit."""
        for own, host in self._copies:
            own.resize_(host.nbytes())
            own.copy_(host)
        for tensor, data in self._away:
            tensor.data = data
        for own, size in self._scratch:
            own.resize_(size)
        self._away, self._copies, self._scratch = [], [], []

    def _tensors(self) -> Iterator[Tensor]:
        """Each once, and none whose memory is that of the weights."""
        optimizer = self._engine.optimizer
        inner = getattr(optimizer, "optimizer", optimizer)  # torch's, inside of DeepSpeed's
        found = [b for name in _BUFFERS for b in _tensors(getattr(optimizer, name, None))]
        for master, state in inner.state.items():
            found += [master, *_tensors(list(state.values()))]
        weights = set()
        for p in self._engine.module.parameters():
            weights |= {x.untyped_storage()._cdata for x in (p, getattr(p, "ds_tensor", p))}
        once = {id(t): t for t in found if t.untyped_storage()._cdata not in weights}
        yield from once.values()


def _tensors(value: Any) -> list[Tensor]:
    """The tensors of a list, or a tensor as a list."""
    if isinstance(value, Tensor):
        return [value]
    return [t for t in value if isinstance(t, Tensor)] if isinstance(value, list) else []
