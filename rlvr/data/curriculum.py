"""Prompts that teach nothing now rest, and come back."""

from typing import Any

_LONGEST = 8  # turns of its source that a prompt rests


class Curriculum:
    """What became of each prompt: one whose rewards were all equal rests for a turn of its source.

    After the second time in a row it rests for two turns, then for four and at last for eight.
    Whether it rests in a turn does not depend on when that is asked.
    """

    def __init__(self) -> None:
        self._useless: dict[str, tuple[int, int]] = {}  # times in a row, first turn after its rest

    def rests(self, prompt: str, turn: int) -> bool:
        return prompt in self._useless and turn < self._useless[prompt][1]

    @property
    def known(self) -> int:
        """Prompts whose last group had no spread."""
        return len(self._useless)

    def saw(self, prompt: str, turn: int, spread: bool) -> None:
        """A group of the prompt, drawn in ``turn``, was judged."""
        if spread:
            self._useless.pop(prompt, None)
            return
        times = self._useless.get(prompt, (0, 0))[0] + 1
        self._useless[prompt] = times, turn + 1 + min(2 ** (times - 1), _LONGEST)

    def state(self) -> dict[str, Any]:
        return {prompt: list(known) for prompt, known in self._useless.items()}

    def restore(self, state: dict[str, Any]) -> None:
        self._useless = {prompt: (times, turn) for prompt, (times, turn) in state.items()}
