"""The benchmarks of the CPU in small: they run to their tables; nothing is asked of a figure."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
BENCH = ROOT / "tests" / "bench"
SPREAD = r"[\d.]+ \([\d.]+–[\d.]+\)"  # a median, the least and the most


def script(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(BENCH / name), *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_learner_memory():
    told = script("learner_memory.py", "--tiny", "--repeats", "1")
    assert re.search(rf"^\| 1,024 \| 8,000 \| {SPREAD} \| {SPREAD} \|$", told, re.M), told


def test_end_to_end_without_engines(tmp_path):
    sides = ["--tiny", "--steps", "1", "--folder", str(tmp_path), "--sides", "training"]
    told = script("end_to_end.py", *sides)
    assert re.search(rf"^\| training \|  \| update {SPREAD} \|$", told, re.M), told


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module


def test_end_to_end_compares_sides_and_limit(bench):
    repeats = bench("repeats").Repeats
    found = {
        "trl": {"step": repeats([30.0, 34.0, 32.0])},
        "synchronous": {"step": repeats([20.0]), "update": repeats([15.0])},
        "vllm": {"rollout": repeats([4.0])},
        "training": {"update": repeats([8.0, 9.0, 7.0])},
    }
    told = bench("end_to_end").report(found)
    assert "| trl | 32.00 (30.00–34.00) |" in told
    assert "synchronous: 1.60 times as fast as TRL, limit ÷ measured 0.60." in told


@pytest.mark.usefixtures("ray_here")
def test_scaling(bench):
    given = argparse.Namespace(repeats=1, tiny=True)
    told = asyncio.run(bench("scaling").measure(given))
    assert re.search(rf"^\| response \| 16: {SPREAD}; 32: {SPREAD} \| [-\d.]+ \|$", told, re.M), (
        told
    )


def test_an_exponent_is_the_slope_on_logarithmic_axes(bench):
    x = [64, 128, 256, 2048]
    assert bench("scaling").exponent(x, [3 * n**1.5 for n in x]) == pytest.approx(1.5)


@pytest.mark.usefixtures("ray_here")
def test_publish(bench, capsys):
    publish = bench("publish")
    asyncio.run(publish.measure(publish.MODELS[0], repeats=1, engines=1))
    assert re.search(rf"^\| 0 \| 1 \| 1 \| {SPREAD} \|", capsys.readouterr().out, re.M)
