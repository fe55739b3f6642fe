r"""How long a run takes on machines that one does not have: the schedule of real runs, with a clock that is counted.

Workers compute, one storage takes the shards, one driver hears of them. With u units, of which each takes a worker
:math:`t`, the storage :math:`s` and the driver :math:`d` seconds, W workers cannot end before

.. math:: T \ge \max\left(\left\lceil \frac{u}{W} \right\rceil t,\; u\,s,\; u\,d\right)

and the schedule comes near to that bound, as long as the three are not close to each other. Storage and driver serve
who comes first; a worker computes its next unit while its last one is written, and waits where two would be.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from dataclasses import dataclass

from diffeat.distributed.schedule import Schedule
from diffeat.extraction.filling import Row, Unit


@dataclass(frozen=True)
class Costs:
    """Seconds of one unit.

    Attributes:
        compute: Of a worker.
        write: Of the storage: bytes of a shard over bytes per second of all writers together.
        driver: Of the driver.
        start: Of a worker, once, until it is ready.
        spread: Standard deviation of ``compute``, relative to it.
    """

    compute: float
    write: float = 0.0
    driver: float = 0.0
    start: float = 0.0
    spread: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """Seconds from start to end, and the shares of them in which workers, storage and driver were busy."""

    seconds: float
    workers: float
    storage: float
    driver: float


def simulate(units: int, workers: int, costs: Costs, seed: int = 0) -> Outcome:
    """A run of so many units on so many workers.

    Example:
        64 units of a second on four workers; with a storage that takes a shard in half a second, that is what counts:

        >>> simulate(64, 4, Costs(1.0)).seconds
        16.0
        >>> round(simulate(64, 4, Costs(1.0, write=0.5)).seconds, 1)
        33.0
    """
    chance, number = random.Random(seed), itertools.count()
    schedule = Schedule(Unit(position, ()) for position in range(units))
    # what happens next: when, what, to whom, with which unit, and when its computing began
    events: list[tuple[float, int, str, int, int]] = []
    hands: list[list[int]] = [[] for _ in range(workers)]
    computing = [False] * workers
    written = [[0.0, 0.0] for _ in range(workers)]  # ends of the last two writes
    storage = driver = busy = storing = driving = now = 0.0

    def happens(when: float, what: str, worker: int, position: int = -1) -> None:
        heapq.heappush(events, (when, next(number), what, worker, position))

    def compute(worker: int, since: float) -> None:
        nonlocal busy
        if hands[worker] and not computing[worker]:
            computing[worker] = True
            seconds = costs.compute * _drawn(chance, costs.spread)
            busy += seconds
            happens(max(since, written[worker][0]) + seconds, "computed", worker, hands[worker].pop(0))

    for worker in range(workers):
        happens(costs.start, "heard", worker)
    while events:
        now, _, what, worker, position = heapq.heappop(events)
        if what == "computed":
            storage = max(storage, now) + costs.write
            storing += costs.write
            written[worker] = [written[worker][1], storage]
            computing[worker] = False
            happens(storage, "heard", worker, position)
            compute(worker, now)
        elif what == "heard":
            driver = max(driver, now) + costs.driver
            driving += costs.driver
            happens(driver, "answered", worker, position)
        else:
            if position >= 0:
                schedule.finished(worker, Row(position))
            while (unit := schedule.take(worker)) is not None:
                hands[worker].append(unit.position)
            compute(worker, now)
    if not schedule.over:
        raise RuntimeError("units are left")
    return Outcome(now, busy / (workers * now), storing / now, driving / now)


def _drawn(chance: random.Random, spread: float) -> float:
    """A positive number of mean 1."""
    if not spread:
        return 1.0
    sigma = math.sqrt(math.log(1 + spread**2))
    return chance.lognormvariate(-(sigma**2) / 2, sigma)
