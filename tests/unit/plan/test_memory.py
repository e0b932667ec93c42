"""Sizes against sums made by hand."""

from __future__ import annotations

import pytest

from rlvr.plan.hardware import GB

DELTA_8B = ("+recipe=delta_qwen3_8b", "cluster=1x8")
DELTA_14B = ("+recipe=delta_qwen3_14b", "cluster=1x8", "learner.offload=none")
STATIC = ("weights", "gradients", "optimizer", "buckets")


@pytest.mark.parametrize(
    ("recipe", "ranks", "workers", "gigabytes"),
    [  # 18 bytes a parameter ÷ ranks, and 2 GB of buckets
        (DELTA_8B, 4, 4, 39),
        (DELTA_8B, 8, 8, 20),
        (DELTA_14B, 4, 4, 69),
        (DELTA_14B, 8, 8, 35),
    ],
)
def test_a_learner_rank_holds_18_bytes_a_parameter(
    planned, recipe, ranks, workers, gigabytes
) -> None:
    placed = () if ranks == 4 else ("cluster.placement=colocated",)
    plan = planned(*recipe, *placed, f"learner.ranks={ranks}", f"rollout.workers={workers}")
    static = sum(plan.memory.learner[part] for part in STATIC) / GB
    assert static == pytest.approx(18 * plan.shape.parameters / GB / ranks + 2)
    assert static == pytest.approx(gigabytes, abs=1)


def test_a_checkpoint_holds_12_bytes_a_parameter(planned) -> None:
    assert planned(*DELTA_8B).memory.checkpoint / GB == pytest.approx(98.3, abs=0.5)
    assert planned(*DELTA_14B).memory.checkpoint / GB == pytest.approx(177, abs=0.5)


def test_the_cache_of_an_engine(planned) -> None:
    """0.85 of 80 GB less 16.4 of weights and 3 of vLLM, 147,456 bytes a token of up to 32,048."""
    memory = planned(*DELTA_8B).memory
    cache = 0.85 * 80 * GB - 2 * 8.190735e9 - 3 * GB
    assert memory.engine["KV cache"] == pytest.approx(cache, rel=1e-5)
    assert memory.sequences == pytest.approx(cache / 147_456 / (2048 + 30000), rel=1e-5)


def test_tensor_parallelism_shares_weights_and_adds_cache(planned) -> None:
    one, two = (
        planned(*DELTA_8B, f"rollout.tensor_parallel={tp}", "learner.ranks=4").memory
        for tp in (1, 2)
    )
    assert two.engine["weights"] == one.engine["weights"] / 2
    assert two.sequences > 2 * one.sequences


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_what_each_stage_shards(planned, stage) -> None:
    plan = planned(*DELTA_8B, f"learner.zero_stage={stage}")
    whole = plan.shape.parameters
    parts = plan.memory.learner
    assert parts["weights"] == 2 * whole / (4 if stage == 3 else 1)
    assert parts["gradients"] == 4 * whole / (4 if stage >= 2 else 1)
    assert parts["optimizer"] == 12 * whole / 4


def test_offload_moves_state_to_the_host(planned) -> None:
    here, there = (
        planned("+recipe=delta_qwen3_14b", "cluster=1x8", f"learner.offload={value}").memory
        for value in ("none", "always")
    )
    assert not here.fits and there.fits
    assert there.host["learner state"] == pytest.approx((16 + 2) * 14.7683e9, rel=1e-4)
    assert here.places["learner GPU"][0] - there.places["learner GPU"][0] > 60 * GB


def test_colocated_at_its_defaults_has_no_room(planned) -> None:
    plan = planned(*DELTA_8B, "cluster.placement=colocated")
    used, there = plan.memory.places["GPU sampling"]
    assert used == pytest.approx((18 * 8.19 / 8 + 2 + 1.5 + 68) * GB, rel=0.01) and used > there
    assert not plan.memory.fits


def test_a_reference_model_costs_its_weights(planned) -> None:
    plan = planned("+recipe=grpo_r1_distill_7b", "cluster=1x8")
    assert plan.memory.learner["reference"] == pytest.approx(2 * 7.6156e9 / 4, rel=1e-4)


def test_a_sequence_longer_than_the_budget_counts_whole(planned) -> None:
    small, whole = (
        planned(*DELTA_8B, f"learner.tokens_per_micro_batch={n}").memory.learner
        for n in (1024, 22528)
    )
    assert small == whole


def test_without_gpus_there_are_no_places_to_fit(planned, tiny_model) -> None:
    folder = tiny_model(True)
    plan = planned("+recipe=quickstart", f"model.path={folder}")
    assert plan.memory.places == {} and plan.memory.fits and plan.stages == {}


def test_what_leaves_while_engines_sample(planned) -> None:
    """All but the weights, the context and the batch goes, to the host: 16 bytes a parameter."""
    from dataclasses import replace

    from rlvr.plan.hardware import GPUS
    from rlvr.plan.plan import plan_of

    stays = planned(*DELTA_8B, "cluster.placement=colocated")
    learner = replace(stays.config.learner, offload="during_rollout")
    leaves = plan_of(replace(stays.config, learner=learner), GPUS["h100"], stays.work)
    here, there = (p.memory.places["GPU sampling"][0] for p in (stays, leaves))
    assert here - there == pytest.approx(16 * 8.190735e9 / 8 + 2 * GB, rel=1e-5)
    assert leaves.memory.host["learner state"] == pytest.approx(16 * 8.190735e9, rel=1e-5)
    assert stays.memory.learner == leaves.memory.learner


ADAPTERS_8B = ("+recipe=lora_delta_qwen3_8b", "cluster=1x1", "cluster.placement=colocated")


def test_adapters_alone_have_gradients_and_optimizer(planned) -> None:
    """Of rank 32 on 36 layers: q and o 4096 x 4096, k and v 4096 x 1024, three of 4096 x 12288."""
    adapters = 32 * 36 * (2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 12288))
    plan = planned(*ADAPTERS_8B)
    rank = plan.memory.learner
    assert rank["weights"] == 2 * (8_190_735_360 + adapters)
    assert rank["gradients"] == 4 * adapters and rank["optimizer"] == 12 * adapters
    assert plan.memory.checkpoint == 12 * adapters
    assert plan.memory.engine["weights"] == 2 * 8_190_735_360
    two = planned(*ADAPTERS_8B, "learner.lora.targets=[q_proj,v_proj]")
    assert two.memory.checkpoint == 12 * 32 * 36 * (2 * 4096 + 4096 + 1024)


def test_the_reference_of_adapters_is_no_second_model(planned) -> None:
    kl = "objective.kl_coefficient=0.01"
    assert "reference" not in {k for k, v in planned(*ADAPTERS_8B, kl).memory.learner.items() if v}
    assert planned(*ADAPTERS_8B, kl, "learner.lora.rank=0").memory.learner["reference"] > 16 * GB


def test_weights_of_which_none_has_a_gradient_cost_a_pass_less(planned) -> None:
    frozen, whole = (
        planned(*ADAPTERS_8B, f"learner.lora.rank={rank}").stages["update"].seconds
        for rank in (32, 0)
    )
    assert frozen / whole == pytest.approx(3 / 4, rel=0.05)
