"""Results come in order, whatever the threads do, and few items are in flight."""

import threading
import time
from collections.abc import Iterator

import pytest

from audio_ssl.data.parallel import map_in_order


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
