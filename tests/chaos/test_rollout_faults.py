"""Rollout workers that fail in the middle of a run: it goes on, to the same responses."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import ray
from hydra import compose, initialize_config_dir

from rlvr.errors import RolloutError
from rlvr.hydra_config import CONFIG_PATH, register, run_config
from rlvr.loop.run import Session
from rlvr.loop.validate import validated
from rlvr.rollout.pool import RolloutPool
from rlvr.verify.workers.pool import VerifierPool
from rlvr.weights.publish import WeightPublisher

STEPS = 3
AHEAD = ["train.max_staleness=1", "objective=dapo", "correction=tis"]


def write_rows(file: Path, **more: object) -> None:
    rows = [{"problem": f"w{i} w{i + 1}", "answer": ".*w5 .*", **more} for i in range(3, 60)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def session(ray_here, tiny_model, tmp_path_factory):
    """``train(folder, *overrides)`` on two engines, which the runs share as far as they live."""
    register()
    data = tmp_path_factory.mktemp("rows") / "train.jsonl"
    write_rows(data)
    common = [
        f"model.path={tiny_model(True)}",
        "model.dtype=float32",
        f"data.train=[{data}]",
        "data.template=none",
        "data.max_prompt_tokens=16",
        "data.verifier=regex",
        f"train.steps={STEPS}",
        "train.prompts_per_step=4",
        "rollout.group_size=8",
        "rollout.workers=2",
        "rollout.max_response_tokens=100",
        "rollout.stall_timeout_s=10",
        "weights.timeout_s=30",
        "learner.ranks=1",
        "learner.lr=1e-3",
        "telemetry.wandb=disabled",
        "telemetry.progress=false",
    ]
    session = Session()
    with asyncio.Runner() as runner:

        def train(folder: Path, *overrides: str) -> None:
            every = [*common, *overrides, f"train.output_dir='{folder}'"]
            with initialize_config_dir(CONFIG_PATH, version_base="1.3"):
                config = run_config(compose("train", overrides=every))
            runner.run(session.train(validated(config)))

        def pool() -> RolloutPool:
            return session._actors.rollout

        yield SimpleNamespace(train=train, pool=pool)
        runner.run(session.close())


@pytest.fixture
def talking(tmp_path) -> list[str]:
    """Overrides of a run whose rows are conversations."""
    data = tmp_path / "talking.jsonl"
    replies = ["w1 w2", {"say": "w3", "reward": 0.5}]
    write_rows(data, environment="dialogue", replies=replies)
    return [f"data.train=[{data}]", "environment.plain_template='{observation}'"]


@pytest.fixture(scope="module")
def undisturbed(session, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    session.train(folder)
    return folder


def responses(folder: Path) -> list[tuple[str, str]]:
    files = sorted((folder / "responses").glob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    return [(row["prompt"], row["response"]) for row in rows]


def steps(folder: Path) -> list[dict]:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if "rollout/reward_mean" in row]


def process(actor) -> int:
    return ray.get(actor.__ray_call__.remote(lambda self: os.getpid()))


def send(number: int):
    return lambda actor, pid: os.kill(pid, number)


def fail_engine(actor, pid) -> None:
    def fail(engine) -> None:
        raise ArithmeticError("the dice are loaded")

    actor.__ray_call__.remote(lambda self: self._inbox.put(fail))


@pytest.fixture
def in_the_middle(monkeypatch):
    """``in_the_middle(harm, victims)``: when the second step has its first responses."""

    def arrange(harm, victims: int) -> None:
        sample, calls = RolloutPool.sample, []

        async def disturbed(pool, requests):
            calls.append(requests)
            while len(pool.engines) < 2:  # who was replaced in the run before may still start
                await asyncio.sleep(0.1)
            second = len(calls) == 2
            pids = [process(actor) for actor in pool.actors] if second else []
            async for sampled in sample(pool, requests):
                if second and pids:
                    for actor, pid in list(zip(pool.actors, pids, strict=True))[:victims]:
                        harm(actor, pid)
                    pids = []
                yield sampled

        monkeypatch.setattr(RolloutPool, "sample", disturbed)

    return arrange


@pytest.mark.parametrize(
    ("harm", "victims", "words"),
    [
        (send(signal.SIGKILL), 2, "The actor died unexpectedly"),
        (send(signal.SIGSTOP), 1, "did not answer within 10 s (rollout.stall_timeout_s)"),
        (fail_engine, 1, "ArithmeticError: the dice are loaded"),
    ],
    ids=["killed", "stopped", "raises"],
)
def test_who_fails_in_the_middle_of_a_step_is_replaced(
    session, undisturbed, in_the_middle, tmp_path, capfd, harm, victims, words
):
    in_the_middle(harm, victims)
    session.train(tmp_path / "run")
    told = [line for line in capfd.readouterr().out.splitlines() if "is replaced" in line]
    assert len(told) == victims
    for i, line in enumerate(sorted(told)):
        assert line.startswith(f"rollout worker {i}") and words in line and "\n" not in line
        assert " 0 requests" not in line
    assert [row["rollout/replaced"] for row in steps(tmp_path / "run")] == [0, victims, victims]
    assert responses(tmp_path / "run") == responses(undisturbed)


def test_conversations_go_on_elsewhere(session, talking, tmp_path, monkeypatch, capfd):
    """Whoever is killed has had turns of conversations whose next turns are still to come."""
    session.train(tmp_path / "undisturbed", *talking)
    reply, killed = VerifierPool.reply, []

    async def replied(pool, items):
        if not killed:
            killed.append(process(session.pool().actors[0]))
            os.kill(killed[0], signal.SIGKILL)
        return await reply(pool, items)

    monkeypatch.setattr(VerifierPool, "reply", replied)
    session.train(tmp_path / "run", *talking)
    assert capfd.readouterr().out.count("It is replaced") == 1
    turns = [
        [
            pq.read_table(file).select(["response_token_ids", "turns"]).to_pylist()
            for file in sorted((tmp_path / name / "responses").glob("*.parquet"))
        ]
        for name in ("undisturbed", "run")
    ]
    assert turns[0] == turns[1]
    assert max(len(row["turns"]) for row in turns[0][1]) > 1


def test_values_are_sampled_elsewhere(session, in_the_middle, tmp_path, capfd):
    """Whoever is killed has begun with the continuations that the credit of a step asks for."""
    vine = "credit=vine credit.segment=tokens credit.every=25 credit.samples=2 train.steps=2"
    session.train(tmp_path / "undisturbed", "advantage=unit", *vine.split())
    in_the_middle(send(signal.SIGKILL), 1)  # the second to be sampled are those of step 1
    session.train(tmp_path / "run", "advantage=unit", *vine.split())
    [told] = [line for line in capfd.readouterr().out.splitlines() if "is replaced" in line]
    assert " 0 requests" not in told
    columns = ["response_token_ids", "coefficient"]
    a, b = (
        pq.read_table(tmp_path / name / "responses", columns=columns)
        for name in ("undisturbed", "run")
    )
    assert a.num_rows == 2 * 32 and a.equals(b)
    assert len({c for own in a["coefficient"].to_pylist() for c in own}) > 5


def test_who_dies_with_half_a_version_is_replaced(
    session, undisturbed, tmp_path, monkeypatch, capfd
):
    told, pids = WeightPublisher._told, []

    def kill_before_the_end(publisher, name, *arguments, **options):
        if name == "finish_update" and arguments == (2,) and not pids:
            pids.append(process(next(iter(publisher.engines.values()))))
            os.kill(pids[0], signal.SIGKILL)
        return told(publisher, name, *arguments, **options)

    monkeypatch.setattr(WeightPublisher, "_told", kill_before_the_end)
    session.train(tmp_path / "run")
    assert capfd.readouterr().out.count("It is replaced") == 1
    assert steps(tmp_path / "run")[-1]["rollout/replaced"] == 1
    assert responses(tmp_path / "run") == responses(undisturbed)


def test_rollout_that_runs_ahead_goes_on_too(session, in_the_middle, tmp_path):
    """Without a place where the run stands still, and the ranks may be at work meanwhile."""
    in_the_middle(send(signal.SIGKILL), 1)
    session.train(tmp_path / "run", *AHEAD, "train.steps=12")
    rows = steps(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert {row["rollout/responses"] for row in rows} == {32}
    assert rows[-1]["rollout/replaced"] == 1
    assert 0 <= min(row["staleness/mean"] for row in rows)
    assert max(row["staleness/max"] for row in rows) == 1
    prompts = Counter(prompt for prompt, _ in responses(tmp_path / "run"))
    assert len(prompts) == 48 and set(prompts.values()) == {8}


def test_what_cannot_be_replaced_ends_the_run_with_the_first_cause(
    session, in_the_middle, tmp_path
):
    """The last test: the engines are lost."""

    def harm(actor, pid) -> None:
        config = session.pool()._config
        config.rollout.max_replacements, config.model.path = 1, "/nowhere"
        os.kill(pid, signal.SIGKILL)

    in_the_middle(harm, 2)
    with pytest.raises(RolloutError, match=r"max_replacements[\s\S]*The actor died unexpectedly"):
        session.train(tmp_path / "run", *AHEAD)
