import hashlib
import itertools

import numpy as np
import pytest
import torch

from metazoo.execution.randomness import generator, seed_of


def test_the_seed_is_the_head_of_a_sha256_over_compact_json() -> None:
    digest = hashlib.sha256(b'[3,"recover","conv4-007",12]').hexdigest()
    assert seed_of(3, "recover", "conv4-007", 12) == int(digest[:16], 16) // 2


def test_the_numbers_never_change() -> None:
    # From sha256sum of coreutils; other values would change every run and zoo.
    assert seed_of(0, "stage", "unit") == 384310911771128700
    assert seed_of(0, "stage", 0, 1) == 6984833868169232629
    assert seed_of(0, "stage", "0", 1) == 125930896237501817


def test_every_name_matters_and_none_runs_into_the_next() -> None:
    seeds = {
        seed_of(run_seed, stage, unit, step)
        for run_seed, stage, unit, step in itertools.product(
            (0, 1, 11), ("a", "b", "a,b", 'a"'), (0, 1, "0", "1", ",", "ä"), (0, 1, 11)
        )
    }
    assert len(seeds) == 3 * 4 * 6 * 3
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_integers_of_numpy_and_torch_count_as_the_integers_they_are() -> None:
    assert seed_of(np.int64(3), "a", torch.tensor(4), np.uint8(5)) == seed_of(3, "a", 4, 5)  # type: ignore[arg-type]


@pytest.mark.parametrize("names", [(0.5, "a", 0), (0, 1, 0), (0, "a", 1.5), (0, "a", None), (0, b"a", 0)])
def test_other_names_are_refused(names: tuple) -> None:
    with pytest.raises(TypeError):
        seed_of(*names)


def test_a_generator_depends_on_its_names_alone() -> None:
    first = torch.rand(4, generator=generator(0, "stage", "unit", 3))
    torch.manual_seed(123)
    generator(0, "stage", "other").seed()
    assert torch.equal(first, torch.rand(4, generator=generator(0, "stage", "unit", 3)))
    assert not torch.equal(first, torch.rand(4, generator=generator(0, "stage", "unit", 4)))
    assert generator(0, "stage", "unit").initial_seed() == seed_of(0, "stage", "unit")


def test_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    torch.rand(3, generator=generator(0, "stage", "unit"))
    assert torch.equal(torch.get_rng_state(), state)
