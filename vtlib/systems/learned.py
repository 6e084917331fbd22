"""Losses with parameters of their own, which learn with the network, under the contract of every loss."""

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any

from torch import Tensor, nn

from ..losses.contract import FINITE, Range, check_batch, check_option, no_autocast, one_number


def learned(*, dims: tuple[int, ...] = (2,), **ranges: Range) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Decorator that makes an nn.Module a loss: `Loss(num_classes, width, *, options)`, called as every loss.

    width is the number of columns of the features. As loss() of losses/contract.py it checks options, batch and value,
    and computes in float32 at least. A method factor(epoch, others), if there is one, multiplies the weight of the loss
    in an epoch (0-based); others is the weighted sum of the other losses in the epoch before, None at first.
    Args: dims: numbers of dimensions that features may have; ranges: option -> Range, FINITE without one.
    """

    def decorate(module: type[nn.Module]) -> type[nn.Module]:
        kinds = {p.name: p.annotation for p in signature(module).parameters.values() if p.kind == p.KEYWORD_ONLY}
        start, call = module.__init__, module.forward

        def check(**options: Any) -> None:
            for name, value in options.items():
                if name in kinds:
                    check_option(name, value, kinds[name], ranges.get(name, FINITE))

        @wraps(start)
        def checked_start(self, num_classes: int, width: int, **options: Any) -> None:
            check(**options)
            start(self, num_classes, width, **options)

        @wraps(call)
        def checked_call(self, features: Tensor, labels: Tensor, modality: Tensor, **asked: Tensor) -> Tensor:
            features, labels, modality, local = check_batch(features, labels, modality, asked.get("local"), dims)
            asked |= {"local": local} if "local" in asked else {}
            with no_autocast(features.device.type):
                return one_number(module.__name__, call(self, features, labels, modality, **asked), features)

        module.check, module.__init__, module.forward = staticmethod(check), checked_start, checked_call
        return module

    return decorate
