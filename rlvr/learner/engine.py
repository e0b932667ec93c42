"""DeepSpeed: the configuration that this learner needs, and nothing it does not.

It is imported where it is used: what only reads this package's policy or features needs none.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from rlvr.config import LearnerConfig, ModelConfig


def deepspeed_config(learner: LearnerConfig, model: ModelConfig) -> dict[str, Any]:
    """The DeepSpeed configuration of one learner rank.

    Gradient accumulation is unmanaged: the update decides how many micro-batches an optimizer
    step has, and its loss is already divided by the mini-batch's global totals. DeepSpeed
    averages gradients over ranks; the update undoes that by the factor ``world size``.
    """
    zero: dict[str, Any] = {
        "stage": learner.zero_stage,
        "contiguous_gradients": True,
        "overlap_comm": learner.zero_stage >= 2,
    }
    if learner.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    if learner.offload == "always":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        if learner.zero_stage == 3:
            zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": learner.max_grad_norm if learner.zero_stage else 0.0,
        "bf16": {"enabled": model.dtype == "bfloat16", "check_grad_overflow": True},
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def sharded(learner: LearnerConfig, model: ModelConfig) -> AbstractContextManager[Any]:
    """Modules that are made inside keep this rank's shard of each of their parameters."""
    import deepspeed

    # Without overrides buffers are what they are elsewhere: none is rounded to the weights' type.
    config = deepspeed_config(learner, model)
    return deepspeed.zero.Init(config_dict_or_path=config, tensor_overrides=[])


def start_engine(policy: nn.Module, learner: LearnerConfig, model: ModelConfig) -> Any:
    """Shard ``policy`` and its optimizer over the initialised process group."""
    import deepspeed

    optimizer = _optimizer(policy.parameters(), learner)
    if learner.zero_stage == 0:
        optimizer.register_step_pre_hook(partial(_clip_or_drop, max_norm=learner.max_grad_norm))
    engine, *_ = deepspeed.initialize(
        model=policy,
        optimizer=optimizer,
        config=deepspeed_config(learner, model),
        dist_init_required=False,
    )
    return engine


def take_step(engine: Any, lr: float) -> float | None:
    """An optimizer step at ``lr``; a collective. The gradient's norm before clipping.

    None: a gradient was not finite on some rank, so all ranks have dropped it, and weights and
    moments are what they were.
    """
    for group in engine.optimizer.param_groups:
        group["lr"] = lr
    engine.step()
    if engine.was_step_applied():
        return float(engine.get_global_grad_norm())
    # Of a bfloat16 model with offload DeepSpeed would keep them, and add the next ones to them.
    getattr(engine.optimizer, "averaged_gradients", {}).clear()
    return None


def start_reference(policy: nn.Module, learner: LearnerConfig, model: ModelConfig) -> Any:
    """A frozen policy: sharded under ZeRO-3, else whole on every rank."""
    policy.requires_grad_(False)
    if learner.zero_stage < 3:
        return policy
    import deepspeed

    config = deepspeed_config(learner, model)
    config["zero_optimization"].pop("offload_optimizer", None)
    engine, *_ = deepspeed.initialize(model=policy, config=config, dist_init_required=False)
    return engine


def gathered(
    parameters: Iterable[nn.Parameter], writer: int | None = None
) -> AbstractContextManager[Any]:
    """The full values of ZeRO-3 shards; a collective. No-op for other stages.

    They are for reading, but for the rank ``writer``: what it writes all ranks keep.
    """
    shards = [p for p in parameters if hasattr(p, "ds_id")]
    if not shards:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(shards, modifier_rank=writer)


def _optimizer(parameters: Iterable[nn.Parameter], learner: LearnerConfig) -> torch.optim.Optimizer:
    weights = [p for p in parameters if p.requires_grad]
    if learner.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=learner.lr, weight_decay=learner.weight_decay)
    arguments: dict[str, Any] = {
        "lr": learner.lr,
        "betas": tuple(learner.betas),
        "eps": learner.eps,
        "weight_decay": learner.weight_decay,
    }
    if learner.offload == "always":
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam(weights, adamw_mode=True, **arguments)
    return torch.optim.AdamW(weights, fused=True, **arguments)


def _clip_or_drop(
    optimizer: Any, arguments: Sequence[Any], options: Mapping[str, Any], *, max_norm: float
) -> None:
    """Before a step without ZeRO: what DeepSpeed's own optimizers do, in the names it reads."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    norm = clip_grad_norm_(weights, max_norm or torch.inf)
    optimizer._global_grad_norm, optimizer.overflow = norm, not norm.isfinite()
    if optimizer.overflow:  # a step without gradients changes nothing
        optimizer.zero_grad()
