"""Position attention against Eq. 1-2 written out in loops."""

import numpy as np
import oracles
import pytest
import torch

from vtlib.model import PositionAttention


def module(channels=4, reduction=1, alpha=0.7, dtype=torch.float64):
    """A position attention with random weights and alpha away from its start."""
    torch.manual_seed(3)
    attention = PositionAttention(channels, reduction).to(dtype)
    with torch.no_grad():
        attention.alpha.fill_(alpha)
    return attention


def maps(channels=4, height=3, width=2, seed=0, scale=1.0):
    """Feature maps (2, C, H, W) float64; H and W differ so that a transposed position shows."""
    return torch.from_numpy(scale * np.random.default_rng(seed).normal(size=(2, channels, height, width)))


def weights(convolution):
    """(weight (K, C), bias (K,) or None) of a 1x1 convolution, as the oracle takes them."""
    weight, bias = convolution.weight.detach().double().flatten(1), convolution.bias
    return weight.numpy(), None if bias is None else bias.detach().double().numpy()


def oracle(attention, x):
    """Eq. 2 with the module's weights."""
    parts = [weights(part) for part in (attention.b, attention.c, attention.d)]
    return torch.from_numpy(oracles.position_attention(x.double().numpy(), *parts, attention.alpha.item()))


@pytest.mark.parametrize("reduction", [1, 2, 4])
@pytest.mark.parametrize("shape", [(3, 2), (1, 5), (4, 4)])
def test_forward_equals_equation(shape, reduction):
    attention, x = module(reduction=reduction), maps(height=shape[0], width=shape[1])
    torch.testing.assert_close(attention(x), oracle(attention, x), atol=1e-10, rtol=0)


def test_forward_in_single_precision():
    attention, x = module(dtype=torch.float32), maps().float()
    torch.testing.assert_close(attention(x), oracle(attention, x).float(), atol=1e-6, rtol=0)


def test_no_scaling_of_the_scores():
    """Eq. 1 has no 1/sqrt(d): with B = C = D = identity weights the scores are plain dot products."""
    attention = PositionAttention(2).double()
    with torch.no_grad():
        attention.alpha.fill_(1.0)
        for part in (attention.b, attention.c, attention.d):
            part.weight.copy_(torch.eye(2)[:, :, None, None])
            if part.bias is not None:
                part.bias.zero_()
    # Two positions (1, 0) and (0, 2): B_1.C_1 = 1, B_1.C_2 = 0, B_2.C_2 = 4. S_11 = e/(e+1), S_22 = e^4/(e^4+1).
    # E_1 = S_11 (1, 0) + S_12 (0, 2) + (1, 0);  E_2 = S_21 (1, 0) + S_22 (0, 2) + (0, 2)
    x = torch.tensor([[[[1.0, 0.0]], [[0.0, 2.0]]]], dtype=torch.float64)
    one, two = np.e / (np.e + 1), np.e**4 / (np.e**4 + 1)
    expected = torch.tensor([[[[one + 1, 1 - two]], [[2 * (1 - one), 2 * two + 2]]]], dtype=torch.float64)
    torch.testing.assert_close(attention(x), expected, atol=1e-12, rtol=0)


def test_starts_as_the_identity():
    attention, x = PositionAttention(4), maps().float()
    assert attention.alpha.numel() == 1 and attention.alpha.item() == 0
    assert isinstance(attention.alpha, torch.nn.Parameter)
    assert torch.equal(attention(x), x)
    attention(x).square().sum().backward()
    assert attention.alpha.grad.isfinite().all() and attention.alpha.grad.abs().sum() > 0  # it can leave its start


def test_map_equals_equation_and_reproduces_forward():
    attention, x = module(), maps(scale=1.5)
    with torch.no_grad():
        found, out, values = attention.attention_map(x), attention(x), attention.d(x).flatten(2)
    assert found.shape == (2, 6, 6) and (found >= 0).all()
    torch.testing.assert_close(found.sum(2), torch.ones(2, 6, dtype=torch.float64))
    for image, rows in zip(x, found, strict=True):
        expected = oracles.attention_map(image.flatten(1).numpy(), weights(attention.b), weights(attention.c))
        np.testing.assert_allclose(rows.numpy(), expected, atol=1e-12)
    pulled = torch.einsum("bji,bci->bcj", found, values).reshape(x.shape)
    torch.testing.assert_close(out, attention.alpha.detach() * pulled + x, atol=1e-10, rtol=0)


def test_large_scores_stay_finite():
    attention, x = module(), maps(scale=200.0)
    assert attention(x).isfinite().all() and attention.attention_map(x).isfinite().all()


def test_moving_the_positions_moves_the_result():
    """No position is special: permuting the places of the input permutes the output."""
    attention, x = module(), maps()
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    moved = x.flatten(2)[:, :, order].reshape(x.shape)
    expected = attention(x).flatten(2)[:, :, order].reshape(x.shape)
    torch.testing.assert_close(attention(moved), expected)


def test_gradients():
    attention, x = module(channels=2), maps(channels=2)
    assert torch.autograd.gradcheck(attention, x.requires_grad_())
    attention(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in attention.parameters())


def test_reduction_narrows_b_and_c_only():
    for reduction in (1, 2, 8):
        attention = PositionAttention(16, reduction=reduction)
        parts = (attention.b, attention.c, attention.d)
        assert [part.out_channels for part in parts] == [16 // reduction, 16 // reduction, 16]
        assert all(part.in_channels == 16 and part.kernel_size == (1, 1) and part.stride == (1, 1) for part in parts)
        assert attention(torch.zeros(2, 16, 3, 2)).shape == (2, 16, 3, 2)
