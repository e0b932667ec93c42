"""Whole runs of ``python -m rlvr.train`` on these GPUs, colocated and disaggregated."""

from __future__ import annotations

import json
import statistics
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "tests" / "bench"
RESPONSE = 512  # tokens, of all responses of the larger model
RUN_S = 240.0
STACK = ("vllm", "deepspeed", "ray", "hydra")


@dataclass(frozen=True)
class Run:
    """What a run left behind."""

    overrides: list[str]
    steps: list[dict[str, float]]
    used_gb: list[float]  # the most, of each GPU

    def median(self, metric: str) -> float:
        """Of all steps but the first, which waits for what is compiled on its first use."""
        return statistics.median(row[metric] for row in self.steps[1:])

    def told(self) -> str:
        """For the table."""
        step, publish = self.median("time/step_s"), self.median("time/publish_s")
        return (
            f"{step:.2f} s a step, publish {publish:.2f} s; engine and learner differ by "
            f"{self.median('mismatch/logp'):.0e} in log p; {max(self.used_gb):.0f} GB used"
        )


class MemoryWatch:
    """The most that each GPU holds while inside, in GB, as nvidia-smi counts it."""

    def __enter__(self) -> MemoryWatch:
        self.used_gb: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        while not self._over.wait(0.5):
            told = subprocess.run(query, capture_output=True, text=True, timeout=60).stdout
            now = [int(row) * 2**20 / 1e9 for row in told.split() if row.isdigit()]
            self.used_gb = [max(pair) for pair in zip(now, self.used_gb or now, strict=False)]


@pytest.fixture(scope="module")
def train(program, tmp_path_factory):
    """``train(*overrides)``: a run to its end."""

    def run(*overrides: str) -> Run:
        folder = tmp_path_factory.mktemp("run") / "run"
        common = [f"train.output_dir={folder}", "telemetry.wandb=disabled", "train.steps=3"]
        with MemoryWatch() as watch:
            program("-m", "rlvr.train", *overrides, *common, within_s=RUN_S)
        rows = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
        steps = [row for row in rows if "time/step_s" in row]
        assert len(steps) == 3, f"{len(steps)} steps instead of 3"
        return Run(list(overrides), steps, watch.used_gb)

    return run


@pytest.fixture(scope="module")
def quickstart(need, program) -> list[str]:
    """The overrides of the quickstart, its base model made."""
    need(*STACK)
    folder = ROOT / "outputs" / "quickstart"
    if not (folder / "warmup.json").exists():
        program("-m", "rlvr.quickstart", "--output", str(folder), within_s=RUN_S)
    return ["+recipe=quickstart", "evaluation.every=0", "evaluation.at_start=false"]


@pytest.fixture(scope="module")
def larger(need, program, tmp_path_factory) -> list[str]:
    """The overrides of a run on a random model of 0.5 B parameters, in bf16."""
    need(*STACK)
    folder = tmp_path_factory.mktemp("larger")
    prepare = ["from pathlib import Path", "from end_to_end import Setting"]
    prepare += [f"Setting(1024, 28, 151_936).prepare(Path({str(folder)!r}))"]
    program("-c", "; ".join(prepare), within_s=RUN_S, folder=BENCH)
    return [
        f"model.path={folder}/model",
        f"data.train=[{folder}/rows.jsonl]",
        "data.template=none",
        "data.verifier=regex",
        "data.max_prompt_tokens=93",
        f"rollout.max_response_tokens={RESPONSE}",
        "train.prompts_per_step=16",
        "credit=delta",
    ]


def layout(gpus: int, placement: str, tensor_parallel: int = 1) -> list[str]:
    """The overrides of a cluster of these GPUs."""
    keys = [f"cluster=1x{gpus}", f"cluster.placement={placement}"]
    ranks = gpus if placement == "colocated" else max(1, gpus // 2)
    workers = (gpus if placement == "colocated" else gpus - ranks) // tensor_parallel
    if tensor_parallel > 1 and placement == "disaggregated":
        ranks, workers = gpus - tensor_parallel, 1
    keys += [f"learner.ranks={ranks}", f"rollout.workers={workers}"]
    return [*keys, f"rollout.tensor_parallel={tensor_parallel}"]


PLACEMENTS = pytest.mark.parametrize("placement", ["colocated", "disaggregated"])


@PLACEMENTS
def test_quickstart(need, figures, train, quickstart, placement):
    """Quickstart, fp32.

    If not: see the log of the run; telemetry.worker_logs=true shows what its workers say.
    """
    gpus = need(*STACK, count=1 if placement == "colocated" else 2)
    run = train(*quickstart, *layout(gpus, placement))
    assert run.median("mismatch/logp") < 1e-2, "engine and learner are not of one policy"
    figures(run.told())


@pytest.fixture(scope="module")
def runs() -> dict[str, Run]:
    """Those of the larger model, by placement."""
    return {}


@PLACEMENTS
def test_larger_model(need, figures, program, train, larger, runs, placement):
    """0.5 B parameters, bf16.

    If not: see the log of the run. Out of memory: lower rollout.memory_utilization or
    learner.tokens_per_micro_batch.
    """
    gpus = need(*STACK, count=1 if placement == "colocated" else 2)
    run = runs[placement] = train(*larger, *layout(gpus, placement))
    assert run.median("mismatch/logp") < 0.02, "engine and learner are not of one policy"
    figures(run.told())


@PLACEMENTS
def test_publish(need, figures, program, larger, runs, placement):
    """Publish beside a plain copy.

    If not: the run before it failed.
    """
    need(*STACK, count=1 if placement == "colocated" else 2)
    if placement not in runs:
        pytest.skip("there is no run to look at")
    size = (Path(larger[0].partition("=")[2]) / "model.safetensors").stat().st_size / 2 / 1e9
    copy = program(str(Path(__file__).with_name("copies.py")), within_s=120)
    rate = copy["device" if placement == "colocated" else "peer"]
    took = runs[placement].median("time/publish_s")
    backend = "ipc" if placement == "colocated" else "nccl"
    figures(
        f"{backend}: {size:.2f} GB in {took:.2f} s, {size / took:.1f} GB/s; a plain copy runs at "
        f"{rate:.0f} GB/s"
    )


@PLACEMENTS
def test_plan(need, figures, program, runs, placement):
    """The plan beside what was measured.

    If not: the constants of rlvr/plan do not know this GPU; name the nearest with --gpu.
    """
    need(*STACK, "rlvr.plan", count=1 if placement == "colocated" else 2)
    if placement not in runs:
        pytest.skip("there is no run to look at")
    run = runs[placement]
    assumed = ["--response", str(RESPONSE), "--prompt", "70", "--active", "1", "--json"]
    command = ["-m", "rlvr.plan", *run.overrides, "train.steps=3", *assumed]
    plan = program(*command, within_s=60)
    assert plan["step_s"], "the plan says that it does not fit, and it did"
    used = max(used for place, (used, _) in plan["places_gb"].items() if "GPU" in place)
    figures(
        f"step {plan['step_s']:.2f} s planned, {run.median('time/step_s'):.2f} s measured; "
        f"memory {used:.0f} GB planned, {max(run.used_gb):.0f} GB measured"
    )


@PLACEMENTS
def test_tensor_parallel(need, figures, train, larger, placement):
    """Two GPUs an engine.

    If not: set rollout.tensor_parallel=1; if two GPUs cannot reach each other's memory
    (nvidia-smi topo -p2p r), NCCL_P2P_DISABLE=1 may help.
    """
    gpus = need(*STACK, count=2 if placement == "colocated" else 3)
    gpus = gpus - gpus % 2 if placement == "colocated" else gpus
    run = train(*larger, *layout(gpus, placement, 2), "rollout.enforce_eager=true")
    assert run.median("mismatch/logp") < 0.02, "engine and learner are not of one policy"
    figures(run.told())
