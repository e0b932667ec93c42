"""vLLM's end of the ``object_store`` backend: loads a version, all of it or nothing."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.config.weight_transfer import WeightTransferConfig
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader import get_model_loader
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

Weights = list[tuple[str, Tensor]]


@dataclass
class ObjectStoreInitInfo(WeightTransferInitInfo):
    """Nothing to agree on beforehand."""


@dataclass
class ObjectStoreUpdateInfo(WeightTransferUpdateInfo):
    """The parameters in their order, and what the objects hold: the bytes of some in each."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]
    objects: list[Any]

    def map(self) -> Weights:
        """Views of the parameters in the object store; they keep its memory alive."""
        arrays = [array for held in self.objects for array in held]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not writable")  # they are only read
            return [
                (name, torch.from_numpy(array).view(getattr(torch, dtype)).view(shape))
                for name, dtype, shape, array in zip(
                    self.names, self.dtype_names, self.shapes, arrays, strict=True
                )
            ]


class ObjectStoreEngine(WeightTransferEngine[ObjectStoreInitInfo, ObjectStoreUpdateInfo]):
    """Loads a version through vLLM's layerwise reload, and undoes a load that fails.

    The version in use stays mapped until the next one has loaded, so it can be restored from
    memory; before the first publish it is restored from the model's own files.
    """

    init_info_cls = ObjectStoreInitInfo
    update_info_cls = ObjectStoreUpdateInfo

    def __init__(
        self,
        config: WeightTransferConfig,
        vllm_config: VllmConfig,
        device: torch.device,
        model: torch.nn.Module,
    ) -> None:
        super().__init__(config, vllm_config, device, model)
        self._current: Weights | None = None

    def init_transfer_engine(self, init_info: ObjectStoreInitInfo) -> None:
        """No rendezvous is needed."""

    def start_weight_update(self) -> None:
        """The whole update happens in ``receive_weights``, where it can be undone."""

    def finish_weight_update(self) -> None:
        """See ``start_weight_update``."""

    def receive_weights(self, update_info: ObjectStoreUpdateInfo) -> None:
        """Load the version; on any error restore the version in use and raise."""
        weights = update_info.map()
        try:
            self._load(iter(weights))
        except BaseException:
            self._abandon()
            self._load(self._in_use())
            raise
        self._current = weights

    def shutdown(self) -> None:
        self._current = None

    def _load(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        at = "the first parameter"

        def named() -> Iterator[tuple[str, Tensor]]:
            nonlocal at
            for name, tensor in weights:
                at = name
                yield name, tensor

        model: Any = self.model
        initialize_layerwise_reload(model)
        try:
            model.load_weights(named())
            finalize_layerwise_reload(self.model, self.model_config)
            self._repack_tied_head()
        except Exception as error:
            raise RuntimeError(f"vLLM could not load {at}: {error}") from error

    def _repack_tied_head(self) -> None:
        """On the CPU vLLM multiplies by a packed copy of lm_head, made when weights are loaded.

        A tied head has no weights of its own in the stream, so its copy would stay the old one.
        """
        for layer in self.model.modules():
            if isinstance(layer, ParallelLMHead):
                layer.quant_method.process_weights_after_loading(layer)

    def _abandon(self) -> None:
        """Put the tensors of half-loaded layers back, dropping what was buffered for them."""
        for layer in self.model.modules():
            info = get_layerwise_info(layer)
            if info.can_load():
                info.loaded_weights.clear()
                info.load_numel = 0
        finalize_layerwise_reload(self.model, self.model_config)

    def _in_use(self) -> Iterator[tuple[str, Tensor]]:
        if self._current is not None:
            return iter(self._current)
        loader: Any = get_model_loader(self.vllm_config.load_config)
        return iter(loader.get_all_weights(self.model_config, self.model))
