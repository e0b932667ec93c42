"""What all tests share: seeds that can be replayed, one Ray, and tiny models on disk."""

from __future__ import annotations

import asyncio
import os
import random
import zlib
from collections import Counter
from itertools import chain
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import ray
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
hypothesis.settings.register_profile("rlvr", deadline=None)  # a busy core is no failure
hypothesis.settings.load_profile("rlvr")
torch.set_num_threads(1)  # tiny tensors: threads would wait for each other

_SEED = "RLVR_TEST_SEED"
_TESTS = Path(__file__).parent


def pytest_configure(config) -> None:
    """Draw the session's seed, unless the environment names the one of an earlier session.

    Its processes, if there are several, have the environment of the first.
    """
    os.environ.setdefault(_SEED, str(random.SystemRandom().randrange(2**31)))
    config.rlvr_seed = int(os.environ[_SEED])


def pytest_collection_modifyitems(items) -> None:
    """What takes longest begins first, so that no process is left with it at the end."""
    longest = [_TESTS / "integration" / "loop", _TESTS / "chaos"]
    order = {folder: place for place, folder in enumerate(longest)}
    items.sort(key=lambda item: order.get(item.path.parent, len(order)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Of several processes one gets the tests of a folder: it has what they share, as engines."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFolder(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return file if file.startswith("tests/unit") else str(Path(file).parent)

    return ByFolder(config, log)


def pytest_report_header(config) -> str:
    return f"seed: {_SEED}={config.rlvr_seed} draws the same again"


def pytest_terminal_summary(terminalreporter, config) -> None:
    """What each folder took, and how to replay a failure."""
    seconds: Counter[str] = Counter()
    for report in chain.from_iterable(terminalreporter.stats.values()):
        if isinstance(report, pytest.TestReport):
            folder = report.nodeid.split("::")[0].split("/")[:-1]
            seconds["/".join(folder[:3])] += report.duration
    folders = ", ".join(f"{at} {took:.0f} s" for at, took in seconds.most_common() if took >= 1)
    if folders:
        terminalreporter.write_line(f"by folder: {folders}")
    if any(terminalreporter.stats.get(kind) for kind in ("failed", "error")):
        terminalreporter.write_line(f"{_SEED}={config.rlvr_seed} draws the same again")


def _begin(request) -> int:
    """A seed of the test's or module's own: alone it draws what it drew among all the others."""
    value = zlib.crc32(f"{request.config.rlvr_seed} {request.node.nodeid}".encode())
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)
    return value


@pytest.fixture(autouse=True)
def seed(request) -> int:
    """This test's seed, fresh in every session; the global generators begin with it too."""
    return _begin(request)


@pytest.fixture(scope="module", autouse=True)
def module_seed(request) -> int:
    """``seed`` for the fixtures of a whole module."""
    return _begin(request)


@pytest.fixture
def own_registry(monkeypatch):
    """``own_registry(registry)``: what the test registers there, others do not find."""

    def arrange(registry) -> None:
        registry.names()  # those at home are known from here on
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))

    return arrange


@pytest.fixture(scope="session")
def ray_here():
    """One local Ray for all tests that start actors."""
    if not ray.is_initialized():
        ray.init("local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def save_qwen3():
    """``save_qwen3(folder, **settings)``: a 2-layer Qwen3 of random weights."""

    def save(folder, **settings) -> None:
        from transformers import Qwen3Config, Qwen3ForCausalLM

        config = Qwen3Config(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            bos_token_id=None,
            **settings,
        )
        Qwen3ForCausalLM(config).float().save_pretrained(folder)

    return save


@pytest.fixture(scope="session")
def tiny_model(save_qwen3, tmp_path_factory):
    """``tiny_model(tied)``: folder of a Qwen3 with 128 tokens, and its tokenizer."""
    made = {}

    def make(tied: bool) -> str:
        if tied not in made:
            from tokenizers import Tokenizer, models
            from transformers import PreTrainedTokenizerFast

            folder = tmp_path_factory.mktemp("model") / ("tied" if tied else "untied")
            with torch.random.fork_rng():  # the test that asks first keeps its own numbers
                torch.manual_seed(int(tied))
                save_qwen3(
                    folder,
                    vocab_size=128,
                    max_position_embeddings=512,
                    tie_word_embeddings=tied,
                    eos_token_id=1,
                    pad_token_id=0,
                    initializer_range=0.1,
                )
            words = {f"w{i}": i for i in range(128)}
            PreTrainedTokenizerFast(
                tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w2")),
                eos_token="w1",
                pad_token="w0",
            ).save_pretrained(folder)
            made[tied] = str(folder)
        return made[tied]

    return make


@pytest.fixture(scope="session")
def draw_groups():
    """``draw_groups(generator, rewards, shortest=1)``: random groups, and their GRPO advantages.

    ``rewards`` has those of each group; 1 is a correct response. Responses have up to 19 tokens,
    and a third of them, unless ``turns=False``, are conversations of up to three turns.
    """
    from rlvr.types import Group, Outcome, Prompt, Response, Sample, Turn, Verdict

    def drawn_turns(generator, tokens: int) -> tuple[Turn, ...]:
        inside = generator.integers(1, tokens, 2) if tokens > 1 else []
        said = [generator.integers(3, 128, generator.integers(1, 6)) for _ in {*inside}]
        observed = [*(ids.astype(np.int32) for ids in said), np.zeros(0, np.int32)]
        ends = sorted({*map(int, inside), tokens})
        return tuple(Turn(end, ids) for end, ids in zip(ends, observed, strict=True))

    def draw(generator, rewards, shortest=1, turns=True) -> tuple[list[Group], np.ndarray]:
        groups = []
        for g, own in enumerate(rewards):
            prompt = generator.integers(3, 128, generator.integers(2, 9)).tolist()
            samples = []
            for reward in own:
                ids = generator.integers(3, 128, generator.integers(shortest, 20)).astype(np.int32)
                logp = -generator.random(len(ids)).astype(np.float32)
                talks = turns and generator.random() < 1 / 3
                between = drawn_turns(generator, len(ids)) if talks else ()
                version = np.zeros(len(ids), np.int32)
                response = Response(ids, logp, version, "stop", turns=between)
                outcome = Outcome.CORRECT if reward else Outcome.INCORRECT
                samples.append(Sample(response, "", Verdict(float(reward), outcome)))
            groups.append(Group(Prompt(str(g), prompt, "", "", "exact"), samples))
        centred = [g.rewards - g.rewards.mean() for g in groups]
        return groups, np.concatenate([r / (r.std(ddof=1) + 1e-6) for r in centred])

    return draw


@pytest.fixture
def train(ray_here):
    """``train(config)``: a whole run with processes of its own."""
    from rlvr.loop.run import Session
    from rlvr.loop.validate import validated

    async def whole(config) -> None:
        session = Session()
        try:
            await session.train(validated(config))
        finally:
            await session.close()

    return lambda config: asyncio.run(whole(config))
