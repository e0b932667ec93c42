"""liger-kernel's RMSNorm, rotary embedding and SwiGLU: the same functions, in fewer passes."""

from importlib.util import find_spec
from inspect import signature

import torch
from transformers import PreTrainedModel

from rlvr.errors import ConfigError

_EXACT = ("rms_norm", "rope", "swiglu")  # its losses and whatever else it replaces stay off


def fuse(network: PreTrainedModel, wanted: bool | None, device: torch.device) -> bool:
    """Fuse what can be fused exactly; returns whether that happened.

    Args:
        network: a Hugging Face causal language model.
        wanted: ``learner.fused_kernels``; by default where it is possible.
        device: on which it will run.
    """
    architecture = network.config.model_type
    if wanted is False:
        return False
    if device.type != "cuda":
        missing = "runs on GPUs only, and this learner has none"
    elif find_spec("liger_kernel") is None:
        missing = "is not installed (pip install liger-kernel)"
    else:
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

        if apply := MODEL_TYPE_TO_APPLY_LIGER_FN.get(architecture):
            switches = signature(apply).parameters.keys() - {"model"}
            apply(model=network, **{name: name in _EXACT for name in switches})
            return True
        missing = f"does not know the architecture {architecture}"
    if wanted:
        raise ConfigError(f"learner.fused_kernels=true: liger-kernel {missing}; set it to null")
    return False
