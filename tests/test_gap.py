"""Between two calls those that read and pack give way, for no longer than a moment, and never while a device works."""

from __future__ import annotations

import threading

import pytest

from diffeat.features.gap import Gap

LONG = 60.0  # seconds that no test waits


def others(gap: Gap) -> threading.Thread:
    thread = threading.Thread(target=gap.give_way, daemon=True)
    thread.start()
    return thread


def test_others_give_way_from_the_end_of_one_call_to_the_beginning_of_the_next() -> None:
    gap = Gap(LONG)
    others(gap).join(LONG)  # before the first call nobody waits
    with gap.over():
        gap.give_way()
    waiting = [others(gap) for _ in range(3)]
    waiting[0].join(0.05)
    assert all(thread.is_alive() for thread in waiting)
    with gap.over():
        for thread in waiting:
            thread.join(LONG)
        assert not any(thread.is_alive() for thread in waiting)


def test_a_call_that_fails_ends_as_others_do() -> None:
    gap = Gap(LONG)
    with pytest.raises(ValueError, match="no"), gap.over():
        raise ValueError("no")
    waiting = others(gap)
    waiting.join(0.05)
    assert waiting.is_alive()
    with gap.over():
        waiting.join(LONG)


def test_what_is_waited_for_goes_on() -> None:
    gap = Gap(LONG)
    with gap.over():
        pass
    gap.end()
    gap.give_way()


def test_who_gives_way_waits_for_a_moment_at_the_most() -> None:
    gap = Gap(0.01)
    with gap.over():
        pass
    waiting = others(gap)
    waiting.join(LONG)  # though no call follows
    assert not waiting.is_alive()
