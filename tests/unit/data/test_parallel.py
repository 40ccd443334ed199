"""Results come in order, whatever the threads do, and few items are in flight."""

import threading
import time
from collections.abc import Iterator

import pytest

from audio_ssl.data.parallel import Throttle, map_in_order


@pytest.mark.parametrize(("num_workers", "window", "chunk"), [(1, 1, 1), (3, 7, 2), (8, 64, 16), (0, 2, 5)])
def test_results_are_in_the_items_order(num_workers: int, window: int, chunk: int):
    def work(item: int) -> int:
        time.sleep(0.002 * (item % 3 == 0))
        return item * item

    assert list(map_in_order(work, range(101), num_workers=num_workers, window=window, chunk=chunk)) == [
        i * i for i in range(101)
    ]


@pytest.mark.parametrize("chunk", [1, 4])
def test_no_more_items_are_taken_than_the_window_holds(chunk: int):
    taken = given = most = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for i in range(300):
            taken += 1
            yield i

    for _ in map_in_order(lambda item: item, items(), num_workers=3, window=20, chunk=chunk):
        most = max(most, taken - given)
        given += 1
    assert given == 300
    assert most == 20


def test_a_slow_item_does_not_stop_the_others():
    release = threading.Event()
    done: list[int] = []

    def work(item: int) -> int:
        if item == 0:
            assert release.wait(10)
        done.append(item)
        if len(done) == 9:
            release.set()
        return item

    assert list(map_in_order(work, range(30), num_workers=2, window=10)) == list(range(30))
    assert done[:9] == list(range(1, 10))


def test_an_error_comes_out_in_its_place_and_ends_the_work():
    started: list[int] = []

    def work(item: int) -> int:
        started.append(item)
        if item == 5:
            raise OSError("five")
        return item

    results = map_in_order(work, range(1000), num_workers=2, window=8)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(OSError, match="five"):
        next(results)
    assert len(started) <= 13


def test_closing_cancels_what_has_not_begun():
    started: list[int] = []
    gate = threading.Event()

    def work(item: int) -> int:
        started.append(item)
        if item:
            gate.wait(0.2)
        return item

    results = map_in_order(work, range(1000), num_workers=1, window=500)
    assert next(results) == 0
    results.close()
    assert len(started) <= 3


def settle(rate_of: dict[int, float], most: int) -> tuple[Throttle, float, list[int]]:
    """A throttle over threads that finish turns of 10 items at the given rates, until it keeps a number."""
    now, throttle, tried = 0.0, Throttle(most, 0.0), []
    while throttle._rates is not None:
        tried.append(throttle.limit)
        now += 10 / rate_of[throttle.limit]
        throttle.done(10, now)
    return throttle, now, tried


@pytest.mark.parametrize(
    ("rate_of", "best"),
    [
        ({1: 1000, 2: 900, 4: 700, 6: 500}, 1),
        ({1: 1000, 2: 1900, 4: 3700, 6: 5500}, 6),
        ({1: 1000, 2: 1900, 4: 1800, 6: 1700}, 2),
        ({1: 1000, 2: 1000, 4: 1000, 6: 1000}, 6),
    ],
)
def test_the_number_of_threads_that_gets_most_done_is_kept(rate_of: dict[int, float], best: int):
    throttle, _, tried = settle(rate_of, 6)
    assert list(dict.fromkeys(tried)) == [6, 4, 2, 1]
    assert throttle.limit == best
    for number in (6, 4, 2, 1):
        assert tried.count(number) >= max(2 * number, 0.1 * rate_of[number] / 10)  # long enough to tell


def test_it_is_tried_again_after_a_while():
    throttle, now, _ = settle({1: 1000, 2: 900, 3: 800}, 3)
    assert throttle.limit == 1
    for step in range(29):
        throttle.done(10, now + step / 10)
        assert throttle.limit == 1
    throttle.done(10, now + 3.1)
    assert throttle.limit == 3


def test_threads_that_wait_are_many_and_those_that_compute_wait_for_their_turn():
    active, most = 0, []
    lock = threading.Lock()

    def work(item: int) -> int:
        nonlocal active
        with lock:
            active += 1
            most.append(active)
        time.sleep(0.005)
        with lock:
            active -= 1
        return item

    assert len(list(map_in_order(work, range(600), num_workers=4, window=64))) == 600
    assert most[-1] in (1, 2, 3, 4)
    assert sum(number >= 3 for number in most[-100:]) > 50


def test_no_item_holds_up_the_others_at_its_turn(monkeypatch: pytest.MonkeyPatch):
    """One thread at a time is allowed, and it stands still: after a moment the others go on all the same."""
    monkeypatch.setattr(Throttle, "done", lambda self, num_items, now: setattr(self, "limit", 1))
    release = threading.Event()

    def work(item: int) -> int:
        if item == 3:
            assert release.wait(10)
        if item == 9:
            release.set()
        return item

    assert list(map_in_order(work, range(12), num_workers=3, window=12)) == list(range(12))
