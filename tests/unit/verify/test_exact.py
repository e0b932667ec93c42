import pytest

from rlvr.config import VerifierConfig
from rlvr.task import Outcome, Prompt
from rlvr.verify.exact import Exact


@pytest.mark.parametrize(
    ("gold", "text", "outcome"),
    [
        ("New York", r"\boxed{new  york}", Outcome.CORRECT),
        ("New York", "Answer: NEW\tYORK", Outcome.CORRECT),
        ("1/2", r"\boxed{0.5}", Outcome.INCORRECT),
        ("A", r"\boxed{B}", Outcome.INCORRECT),
        ("A", "A", Outcome.UNPARSEABLE),
    ],
)
def test_exact(gold: str, text: str, outcome: Outcome) -> None:
    verdict = Exact(VerifierConfig()).verify(Prompt("p", (), "", gold, "exact"), text)
    assert verdict.outcome is outcome
    assert verdict.reward == float(outcome is Outcome.CORRECT)
