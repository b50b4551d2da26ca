"""Progressive binarization of weights by a falling temperature (BNext)."""

import math

from torch import Tensor

from bnn_lightning.binarizers.base import (
    AnnealedBinarizer,
    BinarizerFactory,
    WeightBinarizer,
    check_progress,
    scalar_buffer,
)
from bnn_lightning.functional.annealing import geometric_temperature
from bnn_lightning.functional.sign import temperature_sign
from bnn_lightning.utils.checks import check_positive

# Progress at which 0.9^epoch falls below 1e-7 in the 512 epochs of BNext.
PUBLISHED_BINARY_FROM = math.log(1e-7) / (512 * math.log(0.9))


class TemperatureSign(AnnealedBinarizer, WeightBinarizer):
    """Binarize with `functional.temperature_sign`: a ramp of slope 1 / T, and exactly the sign once T is small (BNext).

    The temperature T falls in equal ratios from 1 at progress 0 to `threshold` at progress `binary_from`, and the
    weights are -1 and +1 from there on. The default is BNext's 0.9^epoch over 512 epochs, binary from epoch 153, in a
    schedule of any length: with another ratio r an epoch over E epochs, `binary_from` is log(threshold) / (E log r).
    T itself is in the checkpoint; a published one loads as it is.

    Args:
        binary_from: Progress from which the weights are exact signs; at least 0 and below 1.
        threshold: Temperature that is reached there: a ramp down to here, the sign from here.
        clip: Gradients where the latent weight is larger are zero; `inf` is the plain identity of BNext.
        base: Makes a weight binarizer whose latent weights and scale are taken (`Libra`, `XNORScale` ...); None takes
            the weights as they are, without a scale. The gradient of its sign is not used.
        num_channels: Given to `base`.

    Raises:
        ValueError: An option out of range, or a `base` that is no weight binarizer.

    Example:
        >>> import torch
        >>> binarizer = TemperatureSign(binary_from=0.5)
        >>> weight = torch.tensor([[3e-4, -0.01, 0.0]])
        >>> binarizer(weight), binarizer.is_binary
        (tensor([[ 0.0003, -0.0100,  0.0000]]), False)
        >>> binarizer.set_progress(0.5)
        >>> binarizer(weight), binarizer.is_binary
        (tensor([[ 1., -1.,  1.]]), True)

    References:
        Guo et al., Join the High Accuracy Club on ImageNet with A Binary Neural Network Ticket, 2022.
    """

    temperature: Tensor

    def __init__(
        self,
        binary_from: float = PUBLISHED_BINARY_FROM,
        threshold: float = 1e-7,
        clip: float = math.inf,
        base: BinarizerFactory | None = None,
        num_channels: int = 1,
    ) -> None:
        super().__init__()
        if not 0 <= binary_from < 1:
            raise ValueError(
                f"`binary_from` must be at least 0 and below 1 (the weights are binary before the end), "
                f"got {binary_from}."
            )
        if not 0 < threshold < 1:
            raise ValueError(f"`threshold` must lie between 0 and 1, got {threshold}.")
        check_positive("clip", clip)
        self.binary_from, self.threshold, self.clip = binary_from, threshold, clip
        made = WeightBinarizer() if base is None else base(num_channels)
        if not isinstance(made, WeightBinarizer):
            raise ValueError(f"`base` must make a WeightBinarizer, got {type(made).__name__}.")
        if not made.gives_signs:
            raise ValueError(f"`base` must give signs, got {type(made).__name__} with values of {made.bits} bits.")
        self.base = made
        self.register_buffer("temperature", scalar_buffer(1.0))
        self._remember(False)

    def set_progress(self, progress: float) -> None:
        temperature = geometric_temperature(check_progress(progress), self.binary_from, self.threshold)
        self.temperature.fill_(temperature)
        self._remember(temperature <= self.threshold)
        if isinstance(self.base, AnnealedBinarizer):
            self.base.set_progress(progress)

    @property
    def is_binary(self) -> bool:
        # Known without asking the device, unless somebody else has written the buffer: a checkpoint, an average.
        seen, version, binary = self._known
        if (seen is self.temperature and version == _version(seen)) or self.temperature.is_meta:
            return binary
        return self.look()

    def look(self) -> bool:
        """Return `is_binary` as the device has it: what is written through `.data` does not count as a write."""
        self._remember(not bool(self.temperature > self.threshold))  # compared as `temperature_sign` does
        return self._known[2]

    def _remember(self, binary: bool) -> None:
        self._known = (self.temperature, _version(self.temperature), binary)

    @property
    def scale_is_power_of_two(self) -> bool:
        return self.base.scale_is_power_of_two

    def latent(self, weight: Tensor) -> Tensor:
        return self.base.latent(weight)

    def sign(self, latent: Tensor) -> Tensor:
        return temperature_sign(latent, self.temperature, self.threshold, self.clip)

    def scale(self, weight: Tensor) -> Tensor | None:
        return self.base.scale(weight)

    def offset(self, weight: Tensor) -> Tensor | None:
        return self.base.offset(weight)

    def extra_repr(self) -> str:
        return f"binary_from={self.binary_from:.6g}, threshold={self.threshold:.6g}, clip={self.clip}"


def _version(tensor: Tensor) -> int:
    """Return the number of writes to a tensor; tensors of `torch.inference_mode` do not count."""
    return 0 if tensor.is_inference() else tensor._version
