"""CAJ (Ye et al. 2021, ICCV): a second crop of each visible image, with one of its channels in the place of all.

Its loss is agw.weighted_regularised_triplet(squared=True), and its thermal images have colours_thermal=caj.
"""

import torch
from torch import Tensor, nn

from .colours import NUMBERS, mixes, recolour


class Exchange(nn.Module):
    """View: another crop of each visible image, its colours changed as colours.mixes("exchange") has it."""

    own_crop, numbers = True, NUMBERS

    def forward(
        self, images: Tensor, labels: Tensor, modality: Tensor, numbers: Tensor, second: Tensor
    ) -> tuple[Tensor, Tensor]:
        """images (b, 3, H, W), modality (b,), numbers (b, 4), second (v, 3, H, W) -> the images and behind them v."""
        made = recolour(second, *mixes("exchange", numbers[modality == 0]))
        return torch.cat([images, made]), torch.cat([modality, modality[modality == 0]])
