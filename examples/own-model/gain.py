"""What the layers of `firstlight_model.py` have beside those of a Llama."""

import torch
from torch import Tensor, nn


class Gain(nn.Module):
    """A factor for each channel, one at first: a parameter of one dimension starts at one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, update_bsd: Tensor) -> Tensor:
        return update_bsd * self.weight
