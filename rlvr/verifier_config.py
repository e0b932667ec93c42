"""Configuration of what runs in verifier processes; ``rlvr.config`` has the rest, and these too."""

from dataclasses import dataclass, field
from enum import StrEnum

Sandbox = StrEnum("Sandbox", ["bubblewrap", "unsafe"])


@dataclass
class CodeConfig:
    """The sandbox of programs under test, and its limits."""

    sandbox: Sandbox = Sandbox.bubblewrap  # unsafe: none, the programs can do what you can
    wall_s: float = 8.0  # for a program with all its tests; below verifier.timeout_s
    cpu_s: int = 5  # processor time of each run of a script, or of all calls of a function
    memory_mib: int = 1024  # address space
    output_mib: int = 16  # of each run or call; also the size of a file
    disk_mib: int = 16  # of /tmp, in memory


@dataclass
class FormatConfig:
    """An extra reward for the form of a response, on top of any verifier's."""

    bonus: float = 0.0  # 0: off
    tags: list[str] = field(default_factory=lambda: ["think", "answer"])  # <think>...</think> ...


@dataclass
class RewardConfig:
    """The reward of each outcome. Verifiers that grade fall between incorrect and correct."""

    correct: float = 1.0
    incorrect: float = 0.0
    unparseable: float = 0.0
    timeout: float = 0.0
    error: float = 0.0


@dataclass
class VerifierConfig:
    """The pool that turns response text into verdicts."""

    actors: int | None = None  # default: one a node
    processes: int | None = None  # killable ones, of each actor; default: a quarter of its CPUs
    timeout_s: float = 10.0
    memory_mib: int = 2048
    recycle_after: int = 2000  # verifications that a process serves before it is renewed
    answer_pattern: str | None = None  # regular expression of final answers; default: the last box
    rewards: RewardConfig = field(default_factory=RewardConfig)
    format: FormatConfig = field(default_factory=FormatConfig)
    code: CodeConfig = field(default_factory=CodeConfig)


@dataclass
class EnvironmentConfig:
    """What replies to the policy between its turns (``data.environment``), beside the verifiers."""

    max_turns: int = 8  # of the policy in a conversation, the answer among them
    timeout_s: float = 30.0  # for a reply, after which the policy is told that there is none
    max_characters: int = 4000  # of a reply; of a longer one the middle is left out
    # Around a reply where the tokenizer's chat template is not in use
    plain_template: str = "\n{observation}\n"
    passages: str | None = None  # search_file: a .jsonl with `text` (and `title`), or a line each
    results: int = 3  # search_file: passages that a search finds
