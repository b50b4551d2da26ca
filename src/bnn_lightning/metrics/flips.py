"""Rate of sign flips of latent weights."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from bnn_lightning.functional.sign import sign


class FlipRate(Metric):
    """Share of signs that changed between two calls of `update`; the last pair of calls counts.

    The signs of the last call are kept at one bit each and are part of the state dict, so that a resumed run compares
    with what the interrupted one saw. Weights are equal on all ranks: nothing is reduced.

    Example:
        >>> rate = FlipRate()
        >>> rate.update([torch.tensor([-1.0, 2.0]), torch.tensor([1.0, 1.0])])
        >>> rate.update([torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0])])
        >>> rate.compute()
        tensor(0.2500)
        >>> rate.per_tensor()
        tensor([0.5000, 0.0000])
    """

    full_state_update = False
    signs: Tensor
    flipped: Tensor
    sizes: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(sync_on_compute=False, **kwargs)
        self.add_state("signs", torch.zeros(0, dtype=torch.uint8), persistent=True)
        self.add_state("flipped", torch.zeros(0, dtype=torch.int64), persistent=True)
        self.add_state("sizes", torch.zeros(0, dtype=torch.int64), persistent=True)

    @property
    def is_primed(self) -> bool:
        """Whether there are signs to compare with."""
        return self.signs.numel() > 0

    def update(self, weights: Sequence[Tensor]) -> None:
        """Compare with the last call and remember the signs of this one.

        Args:
            weights: Latent weights or signs, of any shapes, the same ones in every call.

        Raises:
            ValueError: Other shapes than in the last call.
        """
        bits = [pack_signs(weight) for weight in weights]
        packed = torch.cat(bits) if bits else self.signs.new_zeros(0)
        if self.is_primed:
            if packed.numel() != self.signs.numel():
                raise ValueError(
                    f"The weights take {packed.numel()} bytes of signs, those of the last call {self.signs.numel()}: "
                    "`update` must be given the same tensors every time."
                )
            changed = popcount(packed ^ self.signs)
            self.flipped = torch.stack([part.sum() for part in torch.split(changed, [len(part) for part in bits])])
        else:
            self.flipped = torch.zeros(len(bits), dtype=torch.int64, device=packed.device)
        self.sizes = torch.tensor([weight.numel() for weight in weights], device=packed.device)
        self.signs = packed

    def compute(self) -> Tensor:
        """Return the share over all weights, 0 before the second call; NaN without any weight."""
        return self.flipped.sum() / self.sizes.sum()

    def per_tensor(self) -> Tensor:
        """Return the share within each of the weights, shape (number of weights,)."""
        return self.flipped / self.sizes


def pack_signs(weight: Tensor) -> Tensor:
    """Return one bit for each element, 1 for +1, in ceil(n / 8) bytes; the last byte is filled up with 0."""
    positive = (sign(weight.detach()) > 0).flatten()
    positive = torch.nn.functional.pad(positive, (0, -positive.numel() % 8)).view(-1, 8)
    places = 2 ** torch.arange(8, dtype=torch.uint8, device=weight.device)
    return (positive * places).sum(1, dtype=torch.uint8)


def popcount(x: Tensor) -> Tensor:
    """Return the number of 1 bits of each byte, int64."""
    places = torch.arange(8, dtype=torch.uint8, device=x.device)
    return ((x[:, None] >> places) & 1).sum(1)
