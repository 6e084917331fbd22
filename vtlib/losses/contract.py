"""The contract of losses/__init__.py as a decorator: it checks the batch, the arguments and the value of a loss."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from inspect import signature
from numbers import Integral, Real
from sys import float_info
from typing import Any, Literal, NamedTuple, get_args, get_origin

import torch
from torch import Tensor

from ..common import unknown


class Range(NamedTuple):
    """The finite numbers from `low` to `high`; `above` leaves out `low` itself."""

    low: float = -float_info.max
    high: float = float_info.max
    above: bool = False

    def __contains__(self, value: float) -> bool:
        value = value.item() if hasattr(value, "item") else value  # np.float32 would round the bounds to infinity
        return self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        floor = "" if self.low == -float_info.max else f" and {'above' if self.above else 'at least'} {self.low}"
        return f"finite{floor}" if self.high == float_info.max else f"from {self.low} to {self.high}"


FINITE, FRACTION, WEIGHT, SCALE = Range(), Range(0, 1), Range(0), Range(0, above=True)


def loss(*, dims: tuple[int, ...] = (2,), **ranges: Range) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Decorator that makes a function keep the contract. Its attribute check(**options) checks arguments alone.
    Args: dims: numbers of dimensions that features may have; ranges: argument -> Range, FINITE without one.
    Raises: ValueError for an argument of the loss that is not behind the *, or a range of one that it does not have.
    """

    def decorate(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
        _, _, _, *parameters = signature(call).parameters.values()
        kinds = {p.name: p.annotation for p in parameters if p.kind == p.KEYWORD_ONLY}
        if odd := [p.name for p in parameters if p.name not in kinds]:
            raise ValueError(f"loss {call.__name__}: {odd[0]} must stand behind the *, as every argument does")
        if odd := sorted(ranges.keys() - kinds):
            raise ValueError(f"@loss of {call.__name__}: {unknown('argument', odd[0], kinds)}")

        def check(**options: Any) -> None:
            for name, value in options.items():
                if name in kinds:  # Python itself names any other argument when the loss is called
                    check_option(name, value, kinds[name], ranges.get(name, FINITE))

        @wraps(call)
        def checked(features: Tensor, labels: Tensor, modality: Tensor, **options: Any) -> Tensor:
            check(**options)
            features, labels, modality, local = check_batch(features, labels, modality, options.get("local"), dims)
            if "local" in options:
                options["local"] = local
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


def check_option(name: str, value: Any, kind: Any, numbers: Range = FINITE) -> None:
    """Raise ValueError unless a value fits its annotation `kind`: a Literal, bool, or int or float within `numbers`."""
    if get_origin(kind) is Literal and value not in get_args(kind):
        raise ValueError(f"{name} {value!r} is not known: choose one of {', '.join(get_args(kind))}")
    if kind is bool and not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, not {value!r}")
    if kind in (int, float) and not isinstance(value, Tensor):  # a tensor may be a learnable margin and is not read
        number = Integral if kind is int else Real
        if isinstance(value, bool) or not isinstance(value, number) or value not in numbers:
            raise ValueError(f"{name} must be a {'whole ' if kind is int else ''}number, {numbers}, not {value!r}")


def no_autocast(device: str) -> AbstractContextManager:
    """A context without autocast, which would compute products in half precision, whatever the dtype of the factors."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def at_least_single(x: Tensor) -> Tensor:
    """x in float32 if it is of half precision, else unchanged."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def floats(x: Any, name: str) -> Tensor:
    """x in float32 at least. Raises: ValueError unless it is a tensor of floating-point numbers."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name} must be a tensor of floating-point numbers, not {kind}")
    return at_least_single(x)


def whole_numbers(x: Any, name: str) -> Tensor:
    """x as int64. Raises: ValueError naming a value that is no whole number, or so large that floats may round it."""
    try:
        x = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be a tensor of whole numbers, not {type(x).__name__} of other things") from error
    if x.is_complex():
        raise ValueError(f"{name} must be whole numbers, not {x.dtype}")
    if x.is_floating_point() and not (exact := (x == x.round()) & (x.abs() < 2 / torch.finfo(x.dtype).eps)).all():
        raise ValueError(f"{name} has the value {x[~exact][0].item()}: give whole numbers, as integers")
    return x.long()


def check_batch(features: Any, labels: Any, modality: Any, local: Any, dims: tuple[int, ...]) -> tuple[Tensor, ...]:
    """A batch as losses compute with it: features and local in float32 at least, labels and modality int64.
    Raises: ValueError unless features are (N, D), or (N, S, D) if `dims` has 3, with N, D > 0, labels are (N,) whole
        numbers, modality is (N,) of 0 and 1, and local is (N, S, d) or None.
    """
    features = floats(features, "features")
    labels, modality = whole_numbers(labels, "labels"), whole_numbers(modality, "modality")
    if features.ndim not in dims or not features.numel() or not labels.shape == modality.shape == features.shape[:1]:
        shapes = ", ".join(str(tuple(t.shape)) for t in (features, labels, modality))
        form = " or ".join({2: "(N, D)", 3: "(N, S, D)"}[d] for d in dims)
        raise ValueError(f"features, labels, modality are {shapes}: they must be {form}, (N,), (N,) with N, D > 0")
    if (odd := (modality != 0) & (modality != 1)).any():
        raise ValueError(f"modality has the value {modality[odd][0].item()}: 0 is visible and 1 is thermal")
    if local is not None:
        local, n = floats(local, "local"), len(features)
        if local.ndim != 3 or len(local) != n or not local.numel():
            raise ValueError(f"local is {tuple(local.shape)}: it must be (N, S, d) with the N = {n} of features")
    return features, labels, modality, local
