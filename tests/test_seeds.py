"""Seeds by purpose."""

import pytest

from helpers.seeds import seed_for


def test_seed_is_the_same_again_and_another_for_each_purpose_and_seed():
    seeds = {
        (seed, purpose): seed_for(seed, purpose)
        for seed in range(50)
        for purpose in ("prompts", "held-out prompts", "random heads")
    }
    assert len(set(seeds.values())) == len(seeds)
    assert seeds[3, "prompts"] == seed_for(3, "prompts")
    assert all(0 <= seed < 2**32 for seed in seeds.values())


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError):
        seed_for(-1, "prompts")
