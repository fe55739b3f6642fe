"""Who does what next, and what to think of work at which workers die: no processes, no clock, nothing but the rules.

A worker holds a few units at a time, so that it never waits for the next one; near the end only one, so that all end
together. When a worker dies, any of the units in its hands may be the reason: each goes back, and is given to a worker
that holds nothing else. A unit at which workers died twice in this way is tried picture by picture, with nothing
written. A picture at which three died is listed as failed, and its unit done without it. Everything ends: a unit whose
pictures all pass alone is listed as failed after a few more deaths.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from diffeat.extraction.filling import Row, Unit

#: Units in the hands of one worker.
DEPTH = 3
#: Deaths at a picture after which it is listed as failed.
DEATHS = 3
#: Deaths at a unit after which its pictures are tried one by one, and after which it is given up.
_TRIED, _GIVEN_UP = 2, 6


@dataclass
class _Item:
    unit: Unit
    deaths: int = 0


@dataclass
class _Tried:
    """A unit whose pictures are tried: how many are left, and those that failed."""

    item: _Item
    left: int
    failed: dict[str, str] = field(default_factory=dict)


class Schedule:
    """The units of a run, and in whose hands they are.

    Args:
        units: What is to do.
    """

    def __init__(self, units: Iterable[Unit]) -> None:
        self._fresh = deque(map(_Item, units))
        self._suspects: deque[_Item] = deque()
        self._hands: dict[int, list[_Item]] = {}
        self._tried: dict[int, _Tried] = {}

    @property
    def over(self) -> bool:
        """Whether all is done, or listed as failed."""
        return not (self._fresh or self._suspects or any(self._hands.values()))

    def take(self, worker: int) -> Unit | None:
        """The next unit for a worker; ``None`` if it has enough, or there is no more."""
        hand = self._hands.setdefault(worker, [])
        if self._suspects and not hand:
            item = self._suspects.popleft()
        elif not self._fresh or any(held.deaths or held.unit.trial for held in hand):
            return None  # one that tries a suspect has nothing else to lose
        elif not hand or (len(hand) < DEPTH and len(self._fresh) >= DEPTH * len(self._hands)):
            item = self._fresh.popleft()
        else:
            return None
        hand.append(item)
        return item.unit

    def finished(self, worker: int, row: Row) -> Row | None:
        """What came of a unit, to be reported; ``None`` of a trial."""
        hand = self._hands[worker]
        item = next(held for held in hand if held.unit.position == row.position)
        hand.remove(item)
        if item.unit.trial:
            return self._passed(row.position)
        tried = self._tried.pop(row.position, None)
        return row if tried is None else Row(row.position, row.extracted, {**row.failed, **tried.failed})

    def lost(self, worker: int, reason: str) -> list[Row]:
        """A worker died, or will not come back; rows of what is listed as failed now.

        Args:
            reason: In words, for the messages.
        """
        return [row for item in reversed(self._hands.pop(worker, [])) if (row := self._died(item, reason))]

    def _died(self, item: _Item, reason: str) -> Row | None:
        item.deaths += 1
        unit = item.unit
        if unit.trial or len(unit.pictures) == 1:
            if item.deaths < DEATHS:
                self._suspects.appendleft(item)
                return None
            name = unit.pictures[0].name
            failed = {name: f"{name}: {DEATHS} workers ended at this picture, the last one so: {reason}"}
            if not unit.trial:
                return self._given_up(item, failed)
            self._tried[unit.position].failed.update(failed)
            return self._passed(unit.position)
        if item.deaths >= _GIVEN_UP:
            say = f"{item.deaths} workers ended at its shard, at no picture alone; the last one so: {reason}"
            return self._given_up(item, {p.name: f"{p.name}: {say}" for p in unit.pictures})
        if item.deaths % _TRIED:
            self._suspects.appendleft(item)
            return None
        before = self._tried.get(unit.position)
        self._tried[unit.position] = _Tried(item, len(unit.pictures), before.failed if before else {})
        self._suspects.extend(_Item(Unit(unit.position, (picture,), trial=True)) for picture in unit.pictures)
        return None

    def _given_up(self, item: _Item, failed: dict[str, str]) -> Row:
        tried = self._tried.pop(item.unit.position, None)
        return Row(item.unit.position, (), {**failed, **(tried.failed if tried else {})})

    def _passed(self, position: int) -> Row | None:
        """One trial is over; after the last one the unit is done without the pictures that failed."""
        tried = self._tried[position]
        tried.left -= 1
        if tried.left:
            return None
        pictures = tuple(p for p in tried.item.unit.pictures if p.name not in tried.failed)
        if not pictures:
            del self._tried[position]
            return Row(position, (), tried.failed)
        self._suspects.append(_Item(Unit(position, pictures), tried.item.deaths))
        return None
