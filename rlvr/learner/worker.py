"""The Ray actor around one learner rank."""

import gc
import os
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from rlvr.config import RunConfig
from rlvr.errors import LearnerError, RunError
from rlvr.learner.cost import Flops
from rlvr.learner.host_state import HostState
from rlvr.learner.lora import weights_of
from rlvr.learner.sharded_state import ShardedState
from rlvr.learner.state_files import Piece, SharedState, StateFiles, write
from rlvr.storage import FileSum, Folder
from rlvr.types import IN_USE
from rlvr.weights.base import Meeting, WeightBackend, backend_class
from rlvr.weights.source import ShardedWeightSource

_BUILD_S = 600.0  # within which any operator is built


class LearnerWorker:
    """Process-level concerns of a rank: process group, end of the weight transfer, files."""

    def __init__(self, config: RunConfig, rank: int, pad_token_id: int) -> None:
        self._config = config
        self._rank_number = rank
        self._pad_token_id = pad_token_id
        self._weights: WeightBackend
        self._parts: Iterator[dict[str, Any]] | None = None  # of the version that is being sent
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[dict[str, FileSum]]

    def gpus(self) -> list[str]:
        """What Ray calls the GPU of this rank on its node; none without GPUs."""
        import ray

        ids: list[str] = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
        return ids

    def address(self) -> tuple[str, int]:
        """This node's address and a free port, for the process groups to meet."""
        import ray

        with socket.socket() as s:
            s.bind(("", 0))
            return ray.util.get_node_ip_address(), int(s.getsockname()[1])

    def start(self, address: str, port: int) -> Flops:
        """Join the other ranks and load the model; returns what its sequences cost."""
        gpu = self._config.cluster.gpus > 0
        if gpu and not torch.cuda.is_available():
            raise LearnerError(
                f"cluster.gpus_per_node={self._config.cluster.gpus_per_node}, but on "
                f"{socket.gethostname()} PyTorch {torch.__version__} has no usable CUDA device. "
                "See there whether nvidia-smi runs and its driver is new enough for this PyTorch, "
                "and whether PyTorch is a build for GPUs; or train with cluster=local_cpu"
            )
        # DeepSpeed compiles an operator with the ninja beside this Python, once per environment.
        os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
        os.environ.setdefault("TORCH_EXTENSIONS_DIR", f"{sys.prefix}/torch_extensions")
        drop_stale_locks(Path(os.environ["TORCH_EXTENSIONS_DIR"]))
        import deepspeed

        os.environ.update(
            MASTER_ADDR=address,
            MASTER_PORT=str(port),
            RANK=str(self._rank_number),
            WORLD_SIZE=str(self._config.learner.ranks),
            LOCAL_RANK="0",  # Ray shows each rank its own device only
        )
        if interface := _interface():  # else gloo asks what the host's name means, if anything
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        self._device = torch.device("cuda", 0) if gpu else torch.device("cpu")
        deepspeed.init_distributed("nccl" if gpu else "gloo", verbose=False)

        from rlvr.learner.engine import gathered
        from rlvr.learner.rank import LearnerRank

        self._rank = LearnerRank(self._config, self._device, self._pad_token_id)
        self._source = ShardedWeightSource(weights_of(self._rank.policy.model), gathered)
        self._host_state = HostState(self._rank.engine)
        return self._rank.policy.flops

    def rebuild(self, config: RunConfig) -> None:
        """Load the model anew, for a run of ``config`` in the same process group."""
        from rlvr.learner.rank import LearnerRank

        self._rank.engine.destroy()
        self._source.attach({})  # the old weights go before the new ones come
        del self._rank, self._host_state
        gc.collect()
        torch.cuda.empty_cache()
        self._config = config
        self._rank = LearnerRank(config, self._device, self._pad_token_id)
        self._source.attach(weights_of(self._rank.policy.model))
        self._host_state = HostState(self._rank.engine)

    def stage(self, name: str, *arguments: Any) -> Any:
        """A stage of the training step: a method of ``LearnerRank``."""
        return getattr(self._rank, name)(*arguments)

    def sleep(self) -> None:
        """Leave the GPU to the engine, but for the weights, which it is still to get from here."""
        if self._config.learner.offload == "during_rollout":
            self._host_state.leave()
        gc.collect()
        torch.cuda.empty_cache()

    def wake_up(self) -> None:
        """Be ready for the stages again."""
        self._host_state.return_()

    # -- weights --------------------------------------------------------------------------------

    def open_weights(self, backend: str, meeting: Meeting) -> dict[str, Any]:
        """Prepare to send weights; returns what the engines must know before a concurrent send."""
        self._weights = backend_class(backend)(self._source, self._rank_number, meeting)
        return self._weights.announce()

    def send_weights(self, version: int) -> dict[str, Any] | None:
        """Send the next part of ``version``, None after the last; a collective.

        What rank 0 returns is for the engines.
        """
        if self._parts is None:
            self._parts = self._weights.send(version)
        return next(self._parts, None)

    def release_weights(self) -> None:
        """End the send, and free what it left for the engines."""
        self._parts = None
        self._weights.release()

    # -- files ----------------------------------------------------------------------------------

    def save_checkpoint(self, folder: str) -> None:
        """Copy this rank's part of the training state, and begin to write it into ``folder``."""
        state = ShardedState(self._rank.engine, self._rank.policy.model)
        shared, frozen = None, state.frozen()
        if self._rank_number == 0:
            credit = {k: getattr(m, "state", {}) for k, m in self._rank.credit.methods.items()}
            told = {"name": self._config.credit["name"], "state": credit.pop(IN_USE)}
            told["shadows"] = credit
            shared = SharedState(
                state.shapes, self._rank.steps, state.scalars, deepcopy(told), frozen
            )
        self._writing = self._writer.submit(self._write, Folder(folder), state.copied(), shared)

    def _write(
        self, folder: Folder, pieces: list[Piece], shared: SharedState | None
    ) -> dict[str, FileSum]:
        try:
            return write(folder, self._rank_number, pieces, shared)
        except OSError as error:
            raise RunError(
                f"Learner rank {self._rank_number} on {socket.gethostname()} could not write its "
                f"part of a checkpoint into {folder}: {error}. Make room there, and go on from the "
                "checkpoint before it with train.resume=auto."
            ) from error

    def written_checkpoint(self) -> dict[str, FileSum] | None:
        """The files of the last checkpoint, None while they are being written.

        Raises RunError if they could not be.
        """
        return self._writing.result() if self._writing.done() else None

    def load_checkpoint(self, folder: str) -> None:
        """Restore ``save_checkpoint``, of any number of ranks and ZeRO stage; a collective."""
        files = StateFiles(Folder(folder))
        ShardedState(self._rank.engine, self._rank.policy.model).restore(files)
        self._rank.steps = files.shared.optimizer_steps
        saved = dict(files.shared.credit.get("shadows", {}))
        if files.shared.credit["name"] == self._config.credit["name"]:
            saved[IN_USE] = files.shared.credit["state"]
        for label, method in self._rank.credit.methods.items():
            getattr(method, "state", {}).update(saved.get(label, {}))

    def save_model(self, folder: str) -> None:
        """Write an ordinary Hugging Face folder; a collective."""
        from rlvr.learner.policy import save_policy

        keep = self._rank_number == 0
        state = {}
        for name, tensor in self._source:
            if keep:
                state[name] = tensor.to("cpu", copy=True)
        if keep:
            model = self._config.model
            save_policy(state, self._rank.policy, Path(folder), model.tokenizer or model.path)

    def close(self) -> None:
        """Leave the process group in step with the other ranks."""
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def drop_stale_locks(extensions: Path) -> None:
    """Remove what a build that was killed has left: PyTorch would wait for it without end."""
    for lock in extensions.glob("*/lock"):
        try:
            if time.time() - lock.stat().st_mtime > _BUILD_S:
                lock.unlink()
        except FileNotFoundError:  # another rank was faster
            pass


def _interface() -> str | None:
    """The network interface that has the address by which Ray knows this node."""
    import psutil
    import ray

    own = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if own in (a.address for a in addresses):
            return name
    return None
