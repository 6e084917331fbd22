"""What every loss keeps: the checks of its batch and its arguments, its precision, the form of its value."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from inspect import signature
from math import inf
from numbers import Integral, Real
from sys import float_info
from typing import Any, Literal, NamedTuple, get_args, get_origin

import torch
from torch import Tensor

from ..common import unknown


class Range(NamedTuple):
    """Numbers that an argument may have, both ends among them unless `above` leaves out the lower one."""

    low: float = -inf
    high: float = inf
    above: bool = False

    def __contains__(self, value: float) -> bool:
        value = value.item() if hasattr(value, "item") else value  # a number of NumPy
        low = self.low < value if self.above else self.low <= value
        return low and value <= self.high and abs(value) <= float_info.max

    def __str__(self) -> str:
        if self.high < inf:
            return f"from {self.low} to {self.high}"
        return "finite" if self.low == -inf else f"finite and {'above' if self.above else 'at least'} {self.low}"


FRACTION, WEIGHT, SCALE = Range(0, 1), Range(0), Range(0, above=True)


def loss(*, dims: tuple[int, ...] = (2,), **ranges: Range) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Decorator of a loss, which keeps the contract above for it: checks of the batch and arguments, and precision.

    Its attribute `check(**options)` tries arguments without a batch.
    Args: dims: how many dimensions the features may have; ranges: of arguments that may not be any finite number.
    """

    def decorate(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
        _, _, _, *options = signature(call).parameters.values()
        kinds = {p.name: p.annotation for p in options if p.kind == p.KEYWORD_ONLY}
        if odd := [p.name for p in options if p.name not in kinds]:
            raise ValueError(f"loss {call.__name__}: {odd[0]} must stand behind the *, as every argument does")
        if odd := sorted(ranges.keys() - kinds):
            raise ValueError(f"@loss of {call.__name__}: {unknown('argument', odd[0], kinds)}")

        def check(**options: Any) -> None:
            for name, value in options.items():
                if name in kinds:  # Python names the others when the loss is called
                    check_option(name, value, kinds[name], ranges.get(name, Range()))

        @wraps(call)
        def checked(features: Tensor, labels: Tensor, modality: Tensor, **options: Any) -> Tensor:
            check(**options)
            features, labels, modality = check_batch(features, labels, modality, dims)
            if options.get("local") is not None:
                options["local"] = check_stripes(options["local"], features)
            with no_autocast(features.device.type):
                return one_number(call.__name__, call(features, labels, modality, **options), features)

        checked.check = check
        return checked

    return decorate


def one_number(name: str, value: Tensor, features: Tensor) -> Tensor:
    """The value of a loss. Raises: ValueError unless it is one number, with a gradient where the features have one."""
    if not isinstance(value, Tensor) or value.ndim:
        what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise ValueError(f"loss {name} gave {what}, not one number as a tensor: end it with .mean()")
    if torch.is_grad_enabled() and features.requires_grad and not value.requires_grad:
        raise ValueError(f"loss {name} gave a number without a gradient: no .item(), float() or .detach() on the way")
    return value


def check_option(name: str, value: Any, kind: Any, numbers: Range) -> None:
    """Raise ValueError unless a loss may have this argument: one of a Literal, true or false, or a number of a range.

    A tensor, such as a learnable margin, is not read.
    """
    if get_origin(kind) is Literal:
        check_choice(name, value, kind)
    elif kind is bool and not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, not {value!r}")
    elif kind in (int, float) and not isinstance(value, Tensor):
        wanted = Integral if kind is int else Real
        if isinstance(value, bool) or not isinstance(value, wanted) or value not in numbers:
            raise ValueError(f"{name} must be a {'whole ' if kind is int else ''}number, {numbers}, not {value!r}")


def check_choice(name: str, value: Any, kind: Any) -> None:
    """Raise ValueError unless the value is one of a Literal."""
    if value not in get_args(kind):
        raise ValueError(f"{name} {value!r} is not known: choose one of {', '.join(get_args(kind))}")


def no_autocast(device: str) -> AbstractContextManager:
    """Under autocast a matrix product would be of half precision, whatever its factors are: too few digits here."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def at_least_single(x: Tensor) -> Tensor:
    """x in float32, or as it is where it has more digits."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def check_batch(
    features: Tensor, labels: Tensor, modality: Tensor, dims: tuple[int, ...] = (2,)
) -> tuple[Tensor, Tensor, Tensor]:
    """A batch as the losses compute with it: features in float32 at least, labels and modality int64.

    Raises: ValueError unless features are (N, D) with N, D > 0, or have another number of dimensions that `dims` holds,
    labels are (N,) whole numbers and modality is (N,) of 0 and 1.
    """
    if not isinstance(features, Tensor) or not features.is_floating_point():
        kind = features.dtype if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"features must be a tensor of floating-point numbers, not {kind}")
    labels, modality = whole_numbers(labels, "labels"), whole_numbers(modality, "modality")
    n = len(features) if features.ndim else 0
    if features.ndim not in dims or not features.numel() or labels.shape != (n,) or modality.shape != (n,):
        shapes = ", ".join(str(tuple(t.shape)) for t in (features, labels, modality))
        wanted = " or ".join({2: "(N, D)", 3: "(N, S, D)"}[d] for d in dims)
        raise ValueError(f"features, labels, modality are {shapes}: they must be {wanted}, (N,), (N,) with N, D > 0")
    if (odd := (modality != 0) & (modality != 1)).any():
        raise ValueError(f"modality has the value {modality[odd][0].item()}: 0 is visible and 1 is thermal")
    return at_least_single(features), labels, modality


def check_stripes(local: Tensor, features: Tensor) -> Tensor:
    """Features of stripes in float32 at least. Raises: ValueError unless they are (N, S, d) with the N of features."""
    if not isinstance(local, Tensor) or not local.is_floating_point():
        raise ValueError(f"local must be a tensor of floating-point numbers, not {type(local).__name__}")
    if local.ndim != 3 or len(local) != len(features) or not local.numel():
        raise ValueError(
            f"local is {tuple(local.shape)}: it must be (N, S, d) with the N = {len(features)} of features"
        )
    return at_least_single(local)


def whole_numbers(x: Tensor, name: str) -> Tensor:
    """x as int64. Raises: ValueError naming a value that is no whole number, or too large to be told from the next."""
    try:
        x = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be a tensor of whole numbers, not {type(x).__name__} of other things") from error
    if x.is_complex():
        raise ValueError(f"{name} must be whole numbers, not {x.dtype}")
    if x.is_floating_point():
        exact = (x == x.round()) & (x.abs() < 2 / torch.finfo(x.dtype).eps)
        if not exact.all():
            raise ValueError(f"{name} has the value {x[~exact][0].item()}: give whole numbers, as integers")
    return x.long()
