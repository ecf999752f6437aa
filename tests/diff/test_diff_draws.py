"""What a test draws from its module's generator does not follow from which tests ran before it."""

import numpy as np
import pytest

RNG = np.random.default_rng(5)
FIRST = np.random.default_rng(5).random(3).tolist()


@pytest.mark.parametrize("turn", range(2))
def test_every_test_draws_what_it_would_draw_alone(turn):
    assert RNG.random(3).tolist() == FIRST
