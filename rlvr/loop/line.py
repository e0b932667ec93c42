"""Groups from the draw of their prompt to their step: which may begin, and which train next."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from rlvr.config import BatchOrder, TrainConfig
from rlvr.data.stream import Draw, PromptStream
from rlvr.errors import RunError
from rlvr.loop.batch import RolloutBatch
from rlvr.types import Group


@dataclass(eq=False, slots=True)
class Place:
    """A group's place in the line."""

    draw: Draw
    begun: int  # the policy version then; none of its tokens is older
    group: Group | None = None  # when it is finished
    useless: bool = False  # finished without spread, and dynamic sampling wants it


class Line:
    """What is drawn and not trained on, in the order of the draws. It waits for nothing.

    With staleness k and P prompts a step, at most (k + 1)·P groups are in the line while a batch is
    waited for, and k·P while one is trained on. In the order of the prompts, each of them is then
    trained on at most k versions after the one that it began with. In the order in which they
    finish, a group overtakes older ones as long as these fit into the batches before their last.

    What dynamic sampling discards makes room at once: for two groups where nothing may be kept for
    a later version; those too many are drawn again for the next step.
    """

    def __init__(self, config: TrainConfig, stream: PromptStream, start: int) -> None:
        self._config = config
        self._stream = stream
        self._size = config.prompts_per_step
        self._places: dict[Place, None] = {}
        self._finished: dict[Place, None] = {}  # of these, in the order in which they finished
        self._useless = 0  # how many of these are so
        self._next = start  # the step of the next batch
        self.version = start  # of the policy, by which groups begin

    @property
    def room(self) -> int:
        """How many groups may begin now."""
        end = min(self.version + self._config.max_staleness + 1, self._config.steps)
        room = (end - self._next) * self._size - (len(self._places) - self._useless)
        if end - self._next == 1 and self.version == self._next:
            room += min(self._useless, self._size)
        return room

    def begin(self, count: int) -> list[Place]:
        begun = [Place(draw, self.version) for draw in self._stream.draw(count)]
        self._places |= dict.fromkeys(begun)
        return begun

    def finish(self, place: Place, group: Group) -> None:
        if place not in self._places:
            return  # the batch was full without it
        place.group = group
        place.useless = self._config.dynamic_sampling and not group.has_spread
        self._useless += place.useless
        self._finished[place] = None

    def take(self) -> RolloutBatch | None:
        """The batch of the next step, its groups in the order of their draws; None: not yet.

        Raises RunError if dynamic sampling has tried too many prompts for it.
        """
        in_order = self._config.batch_order == BatchOrder.prompt
        known = list(self._finished)
        if in_order:
            known = list(takewhile(lambda place: place.group is not None, self._places))
        self._check_rounds(known)
        useful = [place for place in known if not place.useless]
        if len(useful) < self._size or not (in_order or self._put_oldest_first(useful)):
            return None
        taken = sorted(useful[: self._size], key=lambda place: place.draw.number)
        end = taken[-1].draw.number
        discarded = [p for p in known if p.useless and not (in_order and p.draw.number > end)]
        left = self._without(taken, discarded)
        self._stream.settle(place.draw for place in left)
        self._stream.learn((place.draw, place.group.has_spread) for place in left if place.group)
        groups = [place.group for place in taken if place.group is not None]
        draws, dropped = ([place.draw for place in own] for own in (taken, discarded))
        batch = RolloutBatch(self._next, groups, self._stream.state(), draws, dropped)
        self._next += 1
        if self._config.max_staleness == 0:  # the next batch is the next version's alone
            self._without(list(self._places))
            self._stream.rewind()
        return batch

    def _put_oldest_first(self, useful: list[Place]) -> bool:
        """Bring to the front whatever may not wait; False if some of it is not finished."""
        staleness, chosen = self._config.max_staleness, dict[Place, None]()
        begun = [place.begun for place in self._places if not place.useless]
        for later in range(staleness + 1):  # steps from this one, which take P groups each
            oldest = self._next + later - staleness  # begun by then: their last chance
            must = sum(b <= oldest for b in begun) - later * self._size - len(chosen)
            if must > 0:
                ready = [p for p in useful if p.begun <= oldest and p not in chosen]
                if len(ready) < must:
                    return False
                chosen |= dict.fromkeys(ready[:must])
        useful[:] = [*chosen, *(place for place in useful if place not in chosen)]
        return True

    def _without(self, *leaving: list[Place]) -> list[Place]:
        """The places that leave the line, having left it."""
        left = [place for places in leaving for place in places]
        for place in left:
            del self._places[place]
            self._finished.pop(place, None)
            self._useless -= place.useless
        return left

    def _check_rounds(self, known: Sequence[Place]) -> None:
        tried = known[: self._config.max_sampling_rounds * self._size]
        found = sum(not place.useless for place in tried)
        if len(tried) == self._config.max_sampling_rounds * self._size and found < self._size:
            raise RunError(
                f"dynamic sampling found {found} groups with spread among {len(tried)} prompts at "
                f"step {self._next + 1}, and {self._size} are needed: the task is too easy or too "
                "hard for this policy. Raise train.max_sampling_rounds or rollout.group_size, or "
                "set train.dynamic_sampling=false"
            )
