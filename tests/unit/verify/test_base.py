import subprocess
import sys
from pathlib import Path

import pytest

from rlvr.config import FormatConfig, VerifierConfig
from rlvr.errors import ConfigError
from rlvr.task import Prompt
from rlvr.verify.base import BUILT_IN, load, module_of

CONFIG = VerifierConfig()


@pytest.mark.parametrize("name", sorted(BUILT_IN.keys() - {"code"}))
def test_every_built_in_verifier_loads(name: str) -> None:
    assert load(name, CONFIG) is load(name, VerifierConfig())
    assert load(name, VerifierConfig(format=FormatConfig(1.0))) is not load(name, CONFIG)


@pytest.mark.parametrize("name", ["exact", "math", "regex"])
def test_those_that_compare_answers(name: str) -> None:
    verifier = load(name, CONFIG)
    assert verifier.verify(Prompt("p", (), "", "5", name), r"\boxed{5}").reward == 1
    assert verifier.verify(Prompt("p", (), "", "5", name), r"\boxed{6}").reward == 0


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'math'"):
        module_of("maths")
    with pytest.raises(ConfigError, match="installed or on PYTHONPATH"):
        module_of("no_such_package.verifier")


def test_a_module_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "their_verifiers"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "parity.py").write_text(
        "from rlvr.task import Outcome, Verdict\n"
        "class Parity:\n"
        "    def verify(self, prompt, response_text):\n"
        "        return Verdict(float(len(response_text) % 2), Outcome.CORRECT)\n"
        "VERIFIER = Parity\n"
    )
    (package / "empty.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert (
        load("their_verifiers.parity", CONFIG).verify(Prompt("p", (), "", "", ""), "odd").reward
        == 1
    )
    with pytest.raises(ConfigError, match="does not set VERIFIER"):
        load("their_verifiers.empty", CONFIG)


def test_a_verifier_process_imports_neither_torch_nor_ray() -> None:
    program = "import rlvr.verify.workers.worker, sys; from rlvr.verify.base import load; "
    program += "from rlvr.config import VerifierConfig; load('math', VerifierConfig()); "
    program += "assert not {'torch', 'ray', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
