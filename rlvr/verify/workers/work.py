"""What the processes of a pool have to do."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

from rlvr.config import EnvironmentConfig, RunConfig, VerifierConfig
from rlvr.task import Prompt
from rlvr.verify.base import load, module_of, names
from rlvr.verify.environments.base import environment_module, load_environment


@dataclass(frozen=True)
class Work:
    """Limits, and what is imported before the first response comes.

    Others are imported at their first response, within its time limit.
    """

    verifier: VerifierConfig
    verifiers: Sequence[str] = ()
    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    environments: Sequence[str] = ()

    @classmethod
    def of(cls, config: RunConfig, prompts: Iterable[Prompt]) -> Self:
        """What ``prompts`` need."""
        prompts = list(prompts)
        environments = sorted({p.environment for p in prompts if p.environment})
        return cls(config.verifier, names(prompts), config.environment, environments)

    def check(self) -> None:
        """Raises ConfigError for a name that is none; imports nothing."""
        for name in self.verifiers:
            module_of(name)
        for name in self.environments:
            environment_module(name)

    def load(self) -> None:
        """Import all. Raises ConfigError for what cannot be used, and what imports raise."""
        for name in self.verifiers:
            load(name, self.verifier)
        for name in self.environments:
            load_environment(name, self.environment, self.verifier)
