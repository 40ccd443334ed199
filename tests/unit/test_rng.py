"""Draws are named: same name same draw, another name another draw."""

import torch

from audio_ssl.rng import derive_seed, numpy_generator, torch_generator


def test_the_same_name_gives_the_same_draw_whatever_was_drawn_before():
    first = torch.rand(5, generator=torch_generator(1, "mask", 3, 4))
    torch.rand(7)
    numpy_generator(1, "plan", 0).random(7)
    assert torch.equal(first, torch.rand(5, generator=torch_generator(1, "mask", 3, 4)))


def test_every_part_of_the_name_counts():
    names = [
        (1, "mask", 3, 4),
        (2, "mask", 3, 4),
        (1, "crop", 3, 4),
        (1, "mask", 4, 3),
        (1, "mask", 34),
        (1, "mask", 3),
    ]
    assert len({derive_seed(seed, purpose, *indices) for seed, purpose, *indices in names}) == len(names)


def test_seeds_are_stable_across_versions_and_fit_torch():
    # blake2b of "1/plan/0", computed with hashlib apart from the package
    assert derive_seed(1, "plan", 0) == 2103097396228644543
    assert 0 <= derive_seed(2**40, "x") < 2**63
