"""A plan from overrides, as the command line makes it."""

from __future__ import annotations

from functools import cache

import pytest
from hydra import compose, initialize_config_dir

from rlvr.config import RunConfig
from rlvr.hydra_config import CONFIG_PATH, check_overrides, register, run_config
from rlvr.loop.validate import validated
from rlvr.plan.hardware import gpu
from rlvr.plan.plan import Plan, plan_of


@pytest.fixture(scope="session")
def configured():
    """``configured(*overrides)``: the configuration, not resolved."""

    @cache
    def make(*overrides: str) -> RunConfig:
        register()
        check_overrides("train", list(overrides))
        with initialize_config_dir(CONFIG_PATH, version_base="1.3"):
            return run_config(compose("train", overrides=list(overrides)))

    return make


@pytest.fixture(scope="session")
def planned(configured):
    """``planned(*overrides, on="h100")``: the plan of a recipe and more."""

    @cache
    def make(*overrides: str, on: str = "h100") -> Plan:
        return plan_of(validated(configured(*overrides), files=False), gpu(on))

    return make
