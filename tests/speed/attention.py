"""Position attention, forward and backward: fused beside the form that keeps softmax's (N, N) matrix."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import torch
from torch import Tensor

from vtlib.model import PositionAttention

from .timing import HAS_MEMORY, Row, close, compare, devices, fresh, peak

CHANNELS = 256  # of stage 1 of a ResNet-50; at 288 x 144 pixels its map has 72 x 36 positions
SIZES = {"cpu": [(1, 72, 36), (2, 72, 36), (1, 144, 36)], "cuda": [(2, 72, 36), (64, 72, 36), (2, 144, 36)]}
PRECISIONS = {"cpu": [torch.float32], "cuda": [torch.float32, torch.bfloat16]}  # as training has them
TOLERANCE = 1e-3  # of the largest entry: sums of 32-bit numbers in another order


def measure(repeats: int) -> Iterator[Row]:
    """Times, and the memory of a step beyond module and input: of a process of its own, on a GPU torch's.

    Raises: RuntimeError if the forms disagree in 32 bits, in output or gradients.
    """
    for device in devices():
        for (batch, height, width), precision in product(SIZES[device], PRECISIONS[device]):
            module, x = draw(batch, CHANNELS, height, width, device)
            check_same(module, x)
            steps = [partial(step, form, x, precision) for form in (module, partial(explicit, module))]
            for call in steps:
                call()
            grown = []
            if device != "cpu":
                grown = [peak(call, device) for call in steps]
            elif HAS_MEMORY and batch == 1:
                grown = [fresh(memory_of, form, CHANNELS, height, width) for form in ("fused", "explicit")]
            memory = "+{:,.0f} MB, explicit +{:,.0f} MB".format(*grown) if grown else ""
            yield from compare(
                "PositionAttention",
                f"{batch} x {CHANNELS} x {height} x {width}, {str(precision).removeprefix('torch.')}",
                steps[0],
                {"explicit (N, N)": steps[1]},
                repeats=repeats,
                limit=lambda ms, memory=memory: memory,
                device=device,
            )


def explicit(module: PositionAttention, x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, H, W), with the matrix S of S1 Eq. 1 as it is written."""
    context = module.attention_map(x) @ module.d(x).flatten(2).mT  # (B, N, N) (B, N, C)
    return module.alpha * context.mT.reshape(x.shape) + x


def draw(batch: int, channels: int, height: int, width: int, device: str) -> tuple[PositionAttention, Tensor]:
    """The module with an alpha that is not 0, so that attention counts, and its input."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = PositionAttention(channels)
        torch.nn.init.constant_(module.alpha, 0.5)
        x = torch.randn(batch, channels, height, width)
    return module.to(device), x.to(device).requires_grad_()


def step(form: Callable[[Tensor], Tensor], x: Tensor, precision: torch.dtype = torch.float32) -> None:
    """Forward and backward; gradients add up on the leaves."""
    with torch.autocast(x.device.type, precision, enabled=precision != torch.float32):
        out = form(x)
    out.float().square().mean().backward()


def check_same(module: PositionAttention, x: Tensor) -> None:
    """Raise RuntimeError unless output, gradient on x and all gradients on parameters, as one, are the same."""
    results = []
    for form in (module, partial(explicit, module)):
        out = form(x)
        on_x, *others = torch.autograd.grad(out.square().mean(), [x, *module.parameters()])
        results.append([out.detach(), on_x, torch.cat([g.flatten() for g in others])])  # that on B's bias is 0
    if not all(close(a, b, TOLERANCE) for a, b in zip(*results, strict=True)):
        raise RuntimeError(f"PositionAttention {tuple(x.shape)}: the forms disagree")


def memory_of(form: str, channels: int, height: int, width: int) -> float:
    """MB that a step on one image takes beyond module and input, at most."""
    module, x = draw(1, channels, height, width, "cpu")
    call = module if form == "fused" else partial(explicit, module)
    step(call, x[..., :4, :4])  # loads libraries
    return peak(partial(step, call, x))
