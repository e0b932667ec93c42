"""vLLM alone: its sleep and its waking. Needs vLLM."""

from __future__ import annotations

from pathlib import Path


def test_sleep(need, figures, program, tmp_path):
    """An engine sleeps, wakes and samples the same.

    If not: cluster.placement=colocated will not work here; use disaggregated. The allocator of
    vLLM's sleep mode needs CUDA's virtual memory, which some virtual machines lack.
    """
    need("vllm", "transformers")
    script = str(Path(__file__).with_name("sleep.py"))
    found = program(script, str(tmp_path), within_s=240, VLLM_ENABLE_V1_MULTIPROCESSING="0")
    assert found["same"], "after its sleep it samples something else"
    before, asleep, awake = (found[k] for k in ("before_gb", "asleep_gb", "awake_gb"))
    assert asleep < before / 4, f"{before:.1f} GB before, and {asleep:.1f} GB asleep"
    figures(
        f"GB used: {before:.1f} before, {asleep:.1f} asleep, {awake:.1f} awake; "
        f"to sleep {found['sleep_s']:.1f} s, to wake {found['wake_s']:.1f} s"
    )
