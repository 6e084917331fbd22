"""What tests/losses does not check of the loss that crosses CMDC with adaptive weighting."""

import numpy as np
import oracles
import pytest
from test_losses import batch, on_line

from vtlib.systems.crossed import adaptive_cmdc


def test_weights_are_constants_for_the_gradient():
    features, labels, modality = batch([(2, 2), (1, 3), (2, 1)], dimension=3, seed=8)
    held, small = features.numpy().copy(), 1e-6
    adaptive_cmdc(features.requires_grad_(), labels, modality, hinge=False).backward()
    for at in np.ndindex(held.shape):
        ends = []
        for step in (small, -small):
            moved = held.copy()
            moved[at] += step
            y, m = labels.numpy(), modality.numpy()
            ends.append(oracles.adaptive_cmdc(moved, y, m, 0.3, False, weights_of=held))
        assert features.grad[at].item() == pytest.approx((ends[0] - ends[1]) / (2 * small), abs=1e-7)


def test_with_equal_weights_is_a_difference_of_means():
    # All cosines are 1 on one side of the origin, so the weights of a bound are equal. Identity 1 at 1 (visible) and 3
    # (thermal): distances 0, 2, 2, 0 to its centres, mean 1; identity 2 at 10 and 14: mean 2. Centres of both:
    # 9, 13, 7, 11, mean 10. Terms 1 - 10 + 10 = 1 and 2 - 10 + 10 = 2
    drawn = on_line((1, 1, 0), (3, 1, 1), (10, 2, 0), (14, 2, 1))
    assert adaptive_cmdc(*drawn, margin=10.0).item() == pytest.approx(1.5, abs=1e-12)
