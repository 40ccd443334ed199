"""How training opens its data."""

import os

import pytest

from audio_ssl.config import DataConfig
from audio_ssl.train.datasets import reading_threads


@pytest.mark.parametrize(
    ("asked", "processors", "ranks", "threads"),
    [("auto", 2, 1, 2), ("auto", 16, 1, 8), ("auto", 64, 8, 8), ("auto", 16, 4, 4), ("auto", 4, 8, 1), (0, 16, 1, 0)],
)
def test_a_rank_reads_with_its_share_of_the_processors(monkeypatch, asked, processors, ranks, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert reading_threads(asked) == threads


def test_the_default_is_the_machines():
    assert DataConfig(train=("a.arrow",)).num_workers == "auto"
