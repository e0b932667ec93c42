from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from rlvr import registry
from rlvr.algorithm.advantages import ADVANTAGES
from rlvr.algorithm.compatibility import METHODS
from rlvr.algorithm.correction import CORRECTIONS
from rlvr.algorithm.credit import CREDITS, Needs
from rlvr.algorithm.objectives import OBJECTIVES
from rlvr.algorithm.strength import STRENGTHS
from rlvr.errors import ConfigError


def test_the_methods():
    assert ADVANTAGES.names() == ["dr_grpo", "grpo", "reinforce_pp", "rloo", "unit"]
    assert OBJECTIVES.names() == [
        "cispo", "clip_cov", "dapo", "dr_grpo", "grpo", "gspo", "kl_cov", "real", "real_bce",
        "real_product"
    ]  # fmt: skip
    assert CREDITS.names() == [
        "delta", "entropy_top", "nthr", "oar_g", "oar_p", "otb", "product", "random", "spo", "thr",
        "uniform", "vine"
    ]  # fmt: skip
    assert STRENGTHS.names() == ["audited", "constant", "linear"]
    assert CORRECTIONS.names() == ["mask", "none", "tis"]


@pytest.mark.parametrize("kind", METHODS)
def test_every_method_is_built_from_its_name_or_its_whole_node(kind):
    for name in METHODS[kind].names():
        entry = METHODS[kind].find(name, kind)
        node = entry.node(name)
        assert node["name"] == name and entry.node(name) is not node
        assert isinstance(METHODS[kind].build(node, kind), entry.method)
        assert isinstance(METHODS[kind].build({"name": name}, kind), entry.method)


@pytest.mark.parametrize(
    ("kind", "node", "message"),
    [
        ("credit", {"name": "dleta"}, r"credit\.name: no credit method .*Did you mean 'delta'"),
        ("credit", {"name": "delta", "refinement": 2}, r"credit\.refinement.*'refinements'"),
        ("credit", {"name": "delta", "refinements": "many"}, r"credit\.refinements: .*many"),
        ("credit", {"name": "delta", "lambda_range": [1.2, 0.8]}, r"credit: lambda_range"),
        ("credit", {"name": "delta", "proxy": "full"}, r"credit: proxy must be one of"),
        (
            "credit",
            {"name": "delta", "fixed_gamma": "first_step", "scope": "rank"},
            r"credit: fixed_gamma=first_step is one scale",
        ),
        ("credit", {"name": "thr", "p": 2.0}, r"credit: p must be"),
        ("credit", {"name": "oar_p", "max_positions": 1}, r"credit: max_positions"),
        ("credit", {"name": "oar_g", "mode": "middle"}, r"credit: mode must be one of first"),
        ("credit", {}, r"credit\.name: missing"),
        ("objective", {"name": "dapo", "dual_clip": 0.5}, r"objective: dual_clip must be"),
        ("objective", {"name": "real", "tau": 0}, r"objective: tau must be positive"),
        ("advantage", {"name": "grpo", "eps": 0}, r"advantage: eps must be positive"),
        ("correction", {"name": "tis", "level": "word"}, r"correction: level must be one of"),
        ("strength", {"name": "linear", "last": 2}, r"strength: last must be in \[0, 1\]"),
        ("credit", {"name": "vine", "samples": 0}, r"credit: samples must be at least 1"),
        ("credit", {"name": "no.such.module"}, r"credit\.name: cannot import 'no\.such\.module'"),
    ],
)
def test_mistakes_are_explained(kind, node, message):
    for form in (node, OmegaConf.create(node)):
        with pytest.raises(ConfigError, match=message):
            METHODS[kind].build(form, kind)


TWO_FORMS = ["one dataclass", "options of their own"]
ONE = """
from dataclasses import dataclass
import torch
from rlvr.algorithm.credit import CREDITS, Credit, Needs

@CREDITS.register("{name}")
@dataclass
class Mine:
    needs = Needs.NONE
    strength: float = 2.0

    def assign(self, batch, features, ranks):
        return Credit(torch.full_like(features.logp, self.strength))
"""
APART = """
from dataclasses import dataclass
import torch
from rlvr.algorithm.credit import CREDITS, Credit, Needs

@dataclass
class MineConfig:
    name: str = "{name}"
    strength: float = 2.0

@CREDITS.register("{name}", MineConfig)
class Mine:
    needs = Needs.NONE

    def __init__(self, config):
        self.strength = config.strength

    def assign(self, batch, features, ranks):
        return Credit(torch.full_like(features.logp, self.strength))
"""


@pytest.fixture
def module(tmp_path, monkeypatch, own_registry):
    """Writes a module that can be imported during the test, and forgets its methods after."""
    monkeypatch.syspath_prepend(str(tmp_path))
    own_registry(CREDITS)
    written = []

    def write(name: str, text: str) -> str:
        package = tmp_path / f"{name}_package"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "method.py").write_text(text)
        written.append(f"{name}_package")
        importlib.invalidate_caches()
        return f"{name}_package.method"

    yield write
    for name in written:
        sys.modules.pop(f"{name}.method", None)
        sys.modules.pop(name, None)


@pytest.mark.parametrize("form", [ONE, APART], ids=TWO_FORMS)
def test_a_module_path_is_a_method(module, form):
    path = module("alone", form.format(name="alone"))
    for _ in range(2):  # the second time it is already imported
        mine = CREDITS.build({"name": path, "strength": 3.0}, "credit")
        assert mine.strength == 3.0 and mine.needs == Needs.NONE
        assert CREDITS.find(path, "credit").node(path) == {"name": path, "strength": 2.0}
    with pytest.raises(ConfigError, match=r"credit\.strenght.*'strength'"):
        CREDITS.build({"name": path, "strenght": 3.0}, "credit")
    assert CREDITS.build({"name": "alone"}, "credit").strength == 2.0


def test_a_module_with_two_methods_must_choose(module):
    two = ONE.format(name="first") + ONE.format(name="second").replace("Mine", "Other")
    with pytest.raises(ConfigError, match="registers 2 credit methods instead of one.*METHOD"):
        CREDITS.build({"name": module("undecided", two)}, "credit")
    two = two.replace("first", "third").replace("second", "fourth")
    chosen = CREDITS.build({"name": module("decided", two + "METHOD = Other\n")}, "credit")
    assert type(chosen).__name__ == "Other"
    with pytest.raises(ConfigError, match="registers 0 credit methods"):
        CREDITS.build({"name": module("empty", "")}, "credit")


def test_two_methods_cannot_share_a_name(module):
    with pytest.raises(ConfigError, match="'delta' is registered twice"):
        CREDITS.build({"name": module("clash", ONE.format(name="delta"))}, "credit")


def test_entry_points(module, monkeypatch):
    path = module("packaged", ONE.format(name="packaged"))

    def installed(group):
        return [SimpleNamespace(name="packaged", module=path)] if group == "rlvr.credit" else []

    monkeypatch.setattr(registry, "entry_points", installed)
    assert "packaged" in CREDITS.names() and "packaged" not in OBJECTIVES.names()
    assert CREDITS.build({"name": "packaged"}, "credit").strength == 2.0


def test_registering_by_hand():
    @dataclass
    class Options:
        name: str = "by_hand"

    class Method:
        def __init__(self, config):
            self.config = config

    own = registry.Registry("objective", "rlvr.algorithm.objectives")
    own.register("by_hand", Options)(Method)
    own.register("by_hand", Options)(Method)  # a notebook cell that is run again
    assert isinstance(own.build({"name": "by_hand"}, "objective"), Method)
