"""Quantities of annealed binarizers as functions of the training's progress."""

import math


def ede_sharpness(progress: float, t_min: float = 1e-3, t_max: float = 10.0) -> float:
    r"""Return EDE's t at a progress between 0 and 1: `t_min (t_max / t_min)^progress`.

    Example:
        >>> [round(ede_sharpness(p), 4) for p in (0.0, 0.5, 1.0)]
        [0.001, 0.1, 10.0]
    """
    return float(t_min * (t_max / t_min) ** progress)


def geometric_temperature(progress: float, binary_from: float, threshold: float = 1e-7) -> float:
    r"""Return the temperature at a progress between 0 and 1: from 1 in equal ratios to `threshold` at `binary_from`.

    `threshold^(progress / binary_from)`, and so on below it; from `binary_from` on it is below the threshold for
    certain, also when it is stored in single precision.

    Args:
        progress: Between 0 and 1.
        binary_from: Progress at which the threshold is reached; at 0, every temperature is below it.
        threshold: Between 0 and 1.

    Example:
        >>> [round(geometric_temperature(p, binary_from=0.5, threshold=1e-4), 10) for p in (0.0, 0.25, 0.75)]
        [1.0, 0.01, 1e-06]
    """
    if progress < binary_from:
        return float(threshold ** (progress / binary_from))
    return min(float(threshold ** (progress / binary_from)), (1 - 1e-6) * threshold) if binary_from > 0 else 0.0


def recu_tau(progress: float, start: float = 0.85, end: float = 0.99) -> float:
    r"""Return ReCU's tau at a progress between 0 and 1: `A e^progress + B`, from `start` to `end`.

    `A = (end - start) / (e - 1)` and `B = start - A`.

    Example:
        >>> [round(recu_tau(p), 4) for p in (0.0, 0.5, 1.0)]
        [0.85, 0.9029, 0.99]

    References:
        Xu et al., ReCU, ICCV 2021: its exponential scheduler of tau.
    """
    slope = (end - start) / (math.e - 1)
    return float(slope * math.exp(progress) + start - slope)
