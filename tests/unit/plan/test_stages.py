"""Times against sums made by hand, and against what was worked out on paper."""

from __future__ import annotations

import pytest

from rlvr.config import ModelConfig
from rlvr.plan.hardware import EFFICIENCY, GPUS
from rlvr.plan.shape import shape_of

DELTA_8B = ("+recipe=delta_qwen3_8b", "cluster=1x8")


def test_flops_of_a_forward() -> None:
    shape = shape_of(ModelConfig(path="Qwen/Qwen3-8B-Base"))
    layer = 4096 * (4096 + 2 * 1024 + 4096) + 3 * 4096 * 12288
    norms = 36 * (2 * 4096 + 2 * 128) + 4096
    assert shape.layer_flops(1, 0) == 2 * (36 * layer + norms)
    # Queries with keys and weights with values: 2 FLOPs for each of 32 heads of 128, twice.
    assert shape.layer_flops(0, 1) == 36 * 2 * 2 * 32 * 128


def test_a_step_of_delta_is_what_it_is_on_paper(planned) -> None:
    """Within 40 %: rollout 850 s, score 70, update 350; 1,300 s in all; colocated 650 to 700."""
    stages = planned(*DELTA_8B).stages
    for name, seconds in {"rollout": 850, "score": 70, "update": 350}.items():
        assert stages[name].seconds == pytest.approx(seconds, rel=0.4)
    assert planned(*DELTA_8B).step_s == pytest.approx(1300, rel=0.4)
    colocated = planned(*DELTA_8B, "cluster.placement=colocated", "rollout.memory_utilization=0.7")
    assert colocated.step_s == pytest.approx(675, rel=0.4)


def test_the_update_is_what_its_flops_take(planned) -> None:
    """Four forwards of the active 60 %, at 40 % of 4 × 989 TFLOP/s, ranks 5 % uneven."""
    plan = planned(*DELTA_8B)
    work, shape = plan.work, plan.shape
    flops = 0.6 * 4 * shape.layer_flops(work.tokens, work.pairs)
    flops += 0.6 * 4 * 2 * shape.embedding * work.responses
    seconds = 1.05 * flops / (4 * 0.4 * 989e12)
    assert plan.stages["update"].bound == "FLOPs"
    assert plan.stages["update"].seconds == pytest.approx(seconds, rel=0.15)  # and reductions


def test_decoding_is_bound_by_memory_and_no_faster_than_it(planned) -> None:
    plan = planned(*DELTA_8B)
    tokens = plan.work.responses / 4  # an engine's
    cached = plan.memory.engine["KV cache"] / plan.shape.kv_bytes()
    rows = cached / (plan.work.response + plan.work.prompt)
    weights = 2 * plan.shape.parameters
    floor = tokens / rows * weights / (GPUS["h100"].hbm * EFFICIENCY.hbm)
    assert plan.stages["rollout"].bound == "HBM"
    assert plan.stages["rollout"].seconds > floor


@pytest.mark.parametrize(
    ("faster", "stage"), [("h200", "rollout"), ("b200", "rollout"), ("b200", "update")]
)
def test_better_machines_are_faster(planned, faster, stage) -> None:
    here, there = planned(*DELTA_8B).stages, planned(*DELTA_8B, on=faster).stages
    assert there[stage].seconds < here[stage].seconds


def test_rollout_beside_the_learner_hides_the_shorter(planned) -> None:
    plan = planned(*DELTA_8B, "train.max_staleness=1")
    learner = sum(s.seconds for name, s in plan.stages.items() if name != "rollout")
    assert plan.step_s == max(plan.stages["rollout"].seconds, learner)
    assert plan.stages["rollout"].seconds < planned(*DELTA_8B).stages["rollout"].seconds


def test_oar_p_costs_forwards(planned) -> None:
    """32 positions of half a response each and the clean one: 17 forwards of the active."""
    plan = planned("+recipe=oar_p_qwen2.5_7b", "cluster=1x8")
    plain = planned("+recipe=grpo_qwen2.5_7b", "cluster=1x8")
    assert plan.stages["credit"].seconds > 2 * plain.stages["update"].seconds
    assert plain.stages["credit"].seconds == 0


def test_continuations_are_counted(planned) -> None:
    """9 from every line: far more than the rollout itself, and twice as long for twice as many."""
    words = ("+recipe=vine_rho_1.1b", "cluster=1x8")
    none, one, two = (
        planned(*words, *own).stages["credit"].seconds
        for own in (("credit=uniform", "advantage=grpo"), (), ("credit.samples=18",))
    )
    assert none == 0
    assert one > 2 * planned(*words).stages["rollout"].seconds
    assert two == pytest.approx(2 * one, rel=0.1)


def test_every_rank_of_zero_0_steps_the_whole_optimizer(planned) -> None:
    """32 bytes a parameter, on 4 ranks; those of ZeRO-2 step a quarter and gather the rest."""
    small = ("+recipe=delta_qwen3_8b", "cluster=1x8", "model.path=Qwen/Qwen2.5-1.5B")
    small += ("model.dtype=float32",)
    none, two = (planned(*small, f"learner.zero_stage={z}") for z in (0, 2))
    size, card = none.shape.parameters, GPUS["h100"]
    whole = 32 * size / (card.hbm * EFFICIENCY.hbm)
    gathered = 4 * size / (card.nvlink * EFFICIENCY.network)
    steps = none.work.mini_batches * none.work.epochs
    more = none.stages["update"].seconds - two.stages["update"].seconds
    assert more == pytest.approx(steps * (0.75 * whole - gathered), rel=1e-6)
