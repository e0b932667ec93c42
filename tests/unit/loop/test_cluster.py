"""What is passed to Ray, vLLM and DeepSpeed for clusters that no test machine has."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import fields

import pytest
import ray
import torch

from rlvr.config import RunConfig
from rlvr.errors import LearnerError, RunError
from rlvr.learner.engine import deepspeed_config
from rlvr.learner.worker import LearnerWorker
from rlvr.loop.cluster import connect, engine_options, learner_options, resource_bundles
from rlvr.loop.resolve import learner_threads, resolved, rollout_threads
from rlvr.rollout.engine import engine_arguments
from rlvr.weights.base import Meeting, backend_class


def configuration(placement: str, **rollout) -> RunConfig:
    config = RunConfig()
    config.model.path = "some/model"
    config.cluster.nodes, config.cluster.gpus_per_node = 1, 8
    config.cluster.placement = placement
    for name, value in rollout.items():
        setattr(config.rollout, name, value)
    return resolved(config)


def test_disaggregated_bundles_give_every_rank_and_engine_its_own_gpus():
    config = configuration("disaggregated", tensor_parallel=2)
    assert (
        resource_bundles(config) == [{"CPU": 1.0, "GPU": 1.0}] * 4 + [{"CPU": 1.0, "GPU": 2.0}] * 2
    )
    learners, engines = learner_options(config, None), engine_options(config, None)
    assert [o["num_gpus"] for o in learners] == [1.0] * 4
    assert [o["num_gpus"] for o in engines] == [2.0] * 2
    assert "DS_ACCELERATOR" not in learners[0]["runtime_env"]["env_vars"]
    assert engines[0]["runtime_env"]["env_vars"]["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"


@pytest.mark.parametrize("tp", [1, 4])
def test_a_colocated_engine_lies_in_one_bundle_with_the_ranks_that_it_shares_gpus_with(tp):
    config = configuration("colocated", tensor_parallel=tp)
    assert resource_bundles(config) == [{"CPU": tp, "GPU": tp}] * (8 // tp)
    learners, engines = learner_options(config, None), engine_options(config, None)
    assert [o["num_gpus"] for o in learners] == [1.0] * 8
    assert [o["num_gpus"] for o in engines] == [0.0] * (8 // tp)


def test_ranks_on_gpus_have_the_threads_of_their_node(monkeypatch):
    config = configuration("colocated")
    monkeypatch.setattr("rlvr.loop.cluster._cores", lambda config: 96)
    env = learner_options(config, None)[0]["runtime_env"]["env_vars"]
    assert env["OMP_NUM_THREADS"] == "12"
    assert env["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"


@pytest.mark.parametrize(
    ("staleness", "tp", "engine", "rank"), [(0, 1, 4, 8), (0, 2, 2, 8), (1, 1, 2, 8)]
)
def test_engines_and_ranks_that_take_turns_have_all_cores(staleness, tp, engine, rank):
    config = RunConfig()
    config.cluster.gpus_per_node, config.train.max_staleness = 0, staleness
    config.rollout.workers, config.rollout.tensor_parallel = 2, tp
    config = resolved(config)
    assert rollout_threads(config, 8) == engine
    assert learner_threads(config, 8) == rank


def test_without_gpus_the_cores_are_shared_out():
    config = RunConfig()
    config.cluster.gpus_per_node = 0
    config.learner.ranks = 2
    config = resolved(config)
    assert len(resource_bundles(config)) == 3
    env = learner_options(config, None)[0]["runtime_env"]["env_vars"]
    assert env["DS_ACCELERATOR"] == "cpu" and int(env["OMP_NUM_THREADS"]) >= 1
    assert env["OMP_WAIT_POLICY"] == "PASSIVE"
    assert learner_options(config, None)[0]["num_gpus"] == 0


@pytest.mark.parametrize(
    ("placement", "backend"), [("disaggregated", "nccl"), ("colocated", "ipc")]
)
def test_vllm_arguments(placement, backend):
    config = configuration(placement, tensor_parallel=1, memory_utilization=0.5)
    arguments = engine_arguments(config)
    assert arguments["weight_transfer_config"].backend == backend
    assert arguments["logprobs_mode"] == "processed_logprobs"
    assert arguments["gpu_memory_utilization"] == 0.5
    assert arguments["enable_sleep_mode"] is (placement == "colocated")
    assert arguments["enforce_eager"] is False
    assert arguments["max_model_len"] == 2048 + 1024
    from vllm import EngineArgs

    assert set(arguments) <= {f.name for f in fields(EngineArgs)}


def test_user_arguments_go_to_vllm_last():
    config = configuration("disaggregated")
    config.rollout.engine["kv_cache_dtype"] = "fp8"
    config.rollout.tensor_parallel = 2
    arguments = engine_arguments(config)
    assert arguments["kv_cache_dtype"] == "fp8"
    assert arguments["distributed_executor_backend"] == "mp"
    from vllm.config import CacheConfig

    assert CacheConfig(cache_dtype=arguments["kv_cache_dtype"]).cache_dtype == "fp8"


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it would start")
def test_a_rank_that_finds_no_gpu_says_so():
    with pytest.raises(LearnerError, match=r"gpus_per_node=8, but on .* no usable CUDA device"):
        LearnerWorker(configuration("colocated"), 0, 0).start("127.0.0.1", 1)


def test_nccl_ranks_follow_the_sender_without_gaps():
    nccl, ipc = backend_class("nccl"), backend_class("ipc")
    meeting = Meeting("10.0.0.1", 1234, 1 + 3 * 2)
    offsets = [nccl.engine_init_info(meeting, 1 + i * 2)["rank_offset"] for i in range(3)]
    assert offsets == [1, 3, 5]
    info = nccl.engine_init_info(meeting, 1)
    from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferInitInfo

    assert NCCLWeightTransferInitInfo(**info).world_size == 7
    assert ipc.engine_init_info(meeting, 1) == {"packed": True}


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("offload", ["none", "during_rollout", "always"])
def test_deepspeed_configuration(stage, offload):
    config = RunConfig()
    config.learner.zero_stage, config.learner.offload = stage, offload
    made = deepspeed_config(config.learner, config.model)
    assert made["zero_optimization"]["stage"] == stage
    always = offload == "always"
    assert ("offload_optimizer" in made["zero_optimization"]) == always
    assert ("offload_param" in made["zero_optimization"]) == (always and stage == 3)
    assert made["zero_optimization"]["overlap_comm"] == (stage >= 2)
    assert made["bf16"]["enabled"] and made["communication_data_type"] == "fp32"
    assert made["managed_gradient_accumulation"] is False
    from deepspeed.runtime.config import DeepSpeedConfig

    DeepSpeedConfig(made)  # DeepSpeed accepts it


@pytest.mark.parametrize("late", [1, 2])
def test_a_ray_that_is_late_once_is_started_again(monkeypatch, late):
    """As on a machine that is busy with something else."""
    begun = []

    def init(address, **options):
        begun.append((address, options["num_cpus"]))
        if len(begun) <= late:
            raise Exception("The current node timed out during startup. This could happen because")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)  # other tests have their own
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with nullcontext() if late == 1 else pytest.raises(RunError, match="too much else runs here"):
        connect(RunConfig())
    assert len(begun) == 2 and len(set(begun)) == 1
