from collections.abc import Iterator
from pathlib import Path

import pytest
import ray


@pytest.fixture
def misbehaving(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a verifier that does what the response tells it."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return "misbehaving.verifier"


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray cluster, unless one is there."""
    if ray.is_initialized():
        yield
        return
    ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR")
    yield
    ray.shutdown()
