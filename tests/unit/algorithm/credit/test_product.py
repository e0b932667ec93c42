"""Methods multiplied, against the plain product of what each gives by itself."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

import pytest
import torch

from rlvr.algorithm.credit import CREDITS, Credit, Needs
from rlvr.errors import ConfigError
from rlvr.types import CreditInputs

MEMBERS = ["delta", {"name": "thr", "p": 0.4, "mask_small": False}, "random", "entropy_top"]


def build(of, **options):
    return CREDITS.build({"name": "product", "of": of, **options}, "credit")


def alone(member, tiny, batch, policy):
    node = {"name": member} if isinstance(member, str) else member
    method = CREDITS.build(node, "credit")
    return tiny.assign(method, batch, policy).coefficients.double().tolist()


def literal(factors, advantage):
    """c_t multiplied token by token; then as large on the average as the product of the means."""
    product = [1.0] * len(advantage)
    for c in factors:
        product = [x * y for x, y in zip(product, c, strict=True)]
    counted = [t for t, a in enumerate(advantage) if a != 0]

    def mean(c):
        return sum(abs(c[t]) for t in counted) / len(counted)

    wanted = 1.0
    for c in factors:
        wanted *= mean(c)
    return [x * wanted / mean(product) for x in product], product


@pytest.mark.parametrize("size", [1, 3])
def test_product_equals_the_definition_whatever_the_ranks(tiny, size):
    policy, batch = tiny.Policy(), tiny.batch((4, 5, 3))
    batch.advantage[batch.group_id == batch.group_id[0]] = 0  # a group without spread
    of = random.sample(MEMBERS, 3)
    factors = [alone(member, tiny, batch, policy) for member in of]
    scaled, plain = literal(factors, batch.token_advantage.tolist())
    owners = [random.randrange(size) for _ in range(batch.num_sequences)]
    for normalise, expected in ((True, scaled), (False, plain)):
        method = build(of, normalise=normalise)
        c, _ = tiny.assign_on_ranks(method, batch, policy, owners, size)
        expected = torch.tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(c, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("of", [["delta"], ["uniform", "delta"], ["thr", "uniform"]])
def test_one_method_or_uniform_beside_it_is_that_method(tiny, of):
    policy, batch = tiny.Policy(), tiny.batch((4, 4))
    [member] = [m for m in of if m != "uniform"]
    own = torch.tensor(alone(member, tiny, batch, policy), dtype=torch.float64)
    c = tiny.assign(build(of), batch, policy).coefficients.double()
    torch.testing.assert_close(c, own, rtol=1e-12, atol=0)  # hidden states come in another order


@dataclass
class Counting:
    """Says 1 more in every step, and what it prepared."""

    by: float = 1.0
    needs = Needs.NONE
    state: dict = field(default_factory=dict)

    async def prepare(self, groups, driver):
        return CreditInputs({"own": torch.tensor(groups, dtype=torch.float64) * self.by})

    def assign(self, batch, features, ranks):
        self.state["steps"] = self.state.get("steps", 0) + 1
        c = batch.inputs.sequence["own"][batch.sequence_id] * self.state["steps"]
        return Credit(c, {"steps": float(self.state["steps"])})


@pytest.fixture
def _counting(own_registry):
    own_registry(CREDITS)

    @dataclass
    class Options:
        by: float = 1.0

    CREDITS.register("counting", Options)(lambda o: Counting(o.by))


@pytest.mark.usefixtures("_counting")
def test_members_keep_their_own_inputs_and_state(tiny):
    of = ["counting", {"name": "counting", "by": 10.0}, "uniform"]
    policy, batch = tiny.Policy(), tiny.batch((4, 4))
    own = torch.rand(8, dtype=torch.float64) + 0.5
    method = build(of, normalise=False)
    inputs = asyncio.run(method.prepare(own.tolist(), None))
    batch = tiny.replace(batch, inputs=inputs.select(torch.arange(8), torch.arange(0)))
    first = tiny.assign(method, batch, policy).coefficients
    torch.testing.assert_close(first, 10 * own[batch.sequence_id] ** 2)
    resumed = build(of, normalise=False)
    resumed.state.update(method.state)  # as a checkpoint is read
    credit = tiny.assign(resumed, batch, policy)
    torch.testing.assert_close(credit.coefficients, 40 * own[batch.sequence_id] ** 2)
    assert credit.metrics["counting(by=10.0)/steps"] == 2
    resumed.state.clear()  # as a trial is taken back
    assert tiny.assign(resumed, batch, policy).metrics["counting/steps"] == 1


def test_needs_and_what_it_goes_with_are_those_of_its_members():
    assert build(["uniform", "random"]).needs == Needs.NONE
    assert build(["delta", "entropy_top"]).needs == Needs.HIDDEN | Needs.STATISTICS | (
        Needs.EVERY_TOKEN
    )
    assert build(["delta", "nthr"]).advantage_only and not build(["delta"]).advantage_only


@pytest.mark.parametrize(
    ("of", "complaint"),
    [
        ([], "credit: of names no method"),
        (["delta", "delat"], r"of\[1\].name: no credit method is called 'delat'. Did you mean"),
        (["vine", "delta", "otb"], r"vine and otb are an advantage each"),
        (["delta", "delta"], r"of\[1\]: delta is there twice"),
        (["delta", {"name": "thr", "q": 1}], r"of\[1\]\.q: no such key"),
    ],
)
def test_mistakes_are_answered_in_words(of, complaint):
    with pytest.raises(ConfigError, match=complaint):
        build(of)
