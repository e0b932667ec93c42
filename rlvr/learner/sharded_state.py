"""What a rank holds of the training state, by parameter; saved and restored under any sharding."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlvr.errors import ConfigError
from rlvr.learner.state_files import MASTER, Piece, StateFiles


@dataclass(frozen=True)
class _Fragment:
    """A run of a parameter's elements, and where this rank keeps them."""

    name: str
    start: int  # of the run, in the flattened parameter
    count: int
    master: Tensor  # with the values of many parameters, or of this one
    offset: int  # of the run, in it

    def of(self, tensor: Tensor) -> Tensor:
        """The run's part of ``master``, or of a moment of the same shape."""
        return tensor.detach().view(-1)[self.offset : self.offset + self.count]


class ShardedState:
    """Master weights and moments of a DeepSpeed engine of ZeRO 0 to 3.

    The weights in the model's own type are the master weights rounded, so they are not saved.
    Nor are those below adapters, which do not change; their sum tells whether they are the same.
    Padding that ZeRO adds stays as it is. Nothing here makes a parameter whole.

    Args:
        network: the model inside the engine, whose parameters have the names of its files.
    """

    def __init__(self, engine: Any, network: nn.Module) -> None:
        self._optimizer = engine.optimizer
        self._inner = getattr(engine.optimizer, "optimizer", engine.optimizer)  # torch's
        self._network = network
        self._device = engine.device
        self._rank = torch.distributed.get_rank()
        self._world = torch.distributed.get_world_size()

    @property
    def shapes(self) -> dict[str, list[int]]:
        return {name: list(getattr(p, "ds_shape", p.shape)) for name, p in self._trained()}

    @property
    def scalars(self) -> dict[str, float]:
        """What the optimizer counts, the same for every parameter."""
        states = [self._inner.state.get(f.master, {}) for f in self._fragments()]
        return {k: float(v) for state in states for k, v in state.items() if _is_scalar(v)}

    def frozen(self) -> int:
        """The sum of the bits of all weights that are not trained, 0 of none; a collective."""
        weights = [p for p in self._network.parameters() if not p.requires_grad]
        return bit_sum(map(self._own, weights), self._device) if weights else 0

    def copied(self) -> list[Piece]:
        """This rank's part, copied to the host."""
        pieces = []
        for fragment in map(self._share, self._fragments()):
            for kind, tensor in self._kept(fragment.master).items():
                if fragment.count > 0:
                    values = fragment.of(tensor).to("cpu", torch.float32, copy=True)
                    pieces.append(Piece(f"{kind}/{fragment.name}", fragment.start, values))
        return pieces

    @torch.no_grad()
    def restore(self, files: StateFiles) -> None:
        """Take over what was saved; a collective. ConfigError if it is another model's."""
        check_shapes(self.shapes, files.shared.shapes)
        if self.frozen() != files.shared.frozen:
            raise ConfigError(
                "model.path: the checkpoint holds adapters alone, of a model whose weights are "
                "others, or were read as another model.dtype. Set it back, or start a new run."
            )
        if hasattr(self._optimizer, "checkpoint_event_prologue"):
            self._optimizer.checkpoint_event_prologue()
        moments = [kind for kind in files.kinds if kind != MASTER]
        wanted = []
        for fragment in self._fragments():
            state = self._inner.state[fragment.master]
            for kind in moments:
                if kind not in state:
                    state[kind] = torch.zeros_like(fragment.master, requires_grad=False)
            state |= {k: self._counted(v, fragment) for k, v in files.shared.scalars.items()}
            for kind, tensor in self._kept(fragment.master).items():
                values = fragment.of(tensor)
                wanted.append(Piece(f"{kind}/{fragment.name}", fragment.start, values))
        files.fill(wanted)
        self._round()
        if hasattr(self._inner, "ds_opt_adam"):
            self._count_to(int(files.shared.scalars.get("step", 0)))

    def _own(self, p: Any) -> Tensor:
        """This rank's share of a weight's elements, as it is in the sum over all ranks."""
        if hasattr(p, "ds_id"):
            shard, start = p.ds_tensor, self._rank * p.ds_tensor.numel()
            return shard.detach().view(-1)[: max(p.ds_numel - start, 0)]
        return p.detach().view(-1)[: p.numel() if self._rank == 0 else 0]

    def _trained(self) -> Iterator[tuple[str, Any]]:
        """The parameters that have a state: not those below adapters. Tied ones once."""
        return ((n, p) for n, p in self._network.named_parameters() if p.requires_grad)

    def _fragments(self) -> Iterator[_Fragment]:
        """All that this rank holds, in the order of the parameters."""
        zero = self._optimizer
        for name, p in self._trained():
            if hasattr(p, "ds_id"):  # ZeRO 3 cuts every parameter into equal parts
                group, offset, size = zero.grad_position[zero.get_param_id(p)]
                start = self._rank * size
                count = min(size, p.ds_numel - start)
                fragment = _Fragment(
                    name, start, count, zero.fp32_partitioned_groups_flat[group], offset
                )
            elif hasattr(zero, "single_partition_of_fp32_groups"):  # ZeRO 1, 2 cut the whole row
                if p._hp_mapping is None:
                    continue
                here, there = p._hp_mapping.lp_fragment_address, p._hp_mapping.hp_fragment_address
                master = zero.single_partition_of_fp32_groups[p._hp_mapping.param_group_index]
                fragment = _Fragment(name, here.start, here.numel, master, there.start)
            else:
                fragment = _Fragment(name, 0, p.numel(), p, 0)
            if fragment.count > 0:
                yield fragment

    def _share(self, fragment: _Fragment) -> _Fragment:
        """What of it this rank saves: under ZeRO 0, where all hold all, an equal part."""
        if self._inner is not self._optimizer:
            return fragment
        size = -(-fragment.count // self._world)
        start = self._rank * size
        count = min(size, fragment.count - start)
        return _Fragment(fragment.name, start, count, fragment.master, start)

    def _kept(self, master: Tensor) -> dict[str, Tensor]:
        state = self._inner.state.get(master, {})
        moments = {k: v for k, v in state.items() if isinstance(v, Tensor) and not _is_scalar(v)}
        return {MASTER: master, **moments}

    def _counted(self, value: float, fragment: _Fragment) -> Any:
        if isinstance(self._inner, torch.optim.AdamW):  # fused: it counts on the device
            return torch.tensor(value, dtype=torch.float32, device=fragment.master.device)
        return int(value)

    def _count_to(self, step: int) -> None:
        """Bring DeepSpeed's CPU Adam to where it was, bit for bit.

        It multiplies its powers of the betas step by step, and a fresh one would begin with
        ``pow``, which may round otherwise.
        """
        group, nothing = self._inner.param_groups[0], torch.empty(0)
        options = group["lr"], *group["betas"], group["eps"], group["weight_decay"]
        for k in range(1, step + 1):
            self._inner.ds_opt_adam.adam_update(
                self._inner.opt_id, k, *options, group["bias_correction"], *[nothing] * 4
            )

    def _round(self) -> None:
        """Make the model's weights from the master weights; a collective."""
        zero = self._optimizer
        if hasattr(zero, "fp32_partitioned_groups_flat"):
            for group in range(len(zero.fp32_partitioned_groups_flat)):
                zero._reassign_or_swap_out_partitioned_parameters(group)
            if persistent := zero.persistent_parameters:  # they are whole on every rank
                persistent[0].partition(persistent)
            zero.checkpoint_event_epilogue()
        elif hasattr(zero, "update_lp_params"):
            zero.update_lp_params()


def bit_sum(weights: Iterable[Tensor], device: torch.device) -> int:
    """The sum of the bits of ``weights``, read as whole numbers, over all ranks; a collective."""
    kinds = {2: torch.int16, 4: torch.int32}
    total = torch.zeros((), dtype=torch.int64, device=device)
    for weight in weights:
        total += weight.view(kinds[weight.itemsize]).sum(dtype=torch.int64).to(device)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)
    return int(total)


def check_shapes(own: dict[str, list[int]], saved: dict[str, list[int]]) -> None:
    """Raises ConfigError that names a parameter in which the models differ."""
    if own == saved:
        return
    name = next(n for n in sorted(own | saved) if own.get(n) != saved.get(n))
    raise ConfigError(
        f"model.path: the run cannot resume with another model: {name} is "
        f"{own.get(name, 'not there')}, in the checkpoint {saved.get(name, 'not there')}. Set it "
        "back, or start a new run."
    )


def _is_scalar(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.dim() == 0)
