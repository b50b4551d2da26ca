"""Figures that papers report of a network, each by its own convention: formulas on exact counts."""

from typing import Literal

from bnn_lightning.metrics.ops import LayerOps, OpCount

Count = LayerOps | OpCount
Rest = Literal["fp32", "int8"]  # what everything that is not binary is held and multiplied in


def operations(count: Count, *, rest: Rest = "fp32") -> float:
    r"""Return the operations (OPs) of one image: $\mathrm{BOPs}/64 + \mathrm{FLOPs}$.

    BOPs are the multiply-accumulates of two binary factors, of which a 64-bit processor does 64 at once; one of factors
    of i and j bits (DoReFa, ternary weights) counts as i j of them. FLOPs are all other multiply-accumulates, once
    each. With `rest="int8"` eight of those are done at once: $\mathrm{BOPs}/64 + \mathrm{FLOPs}/8$, which is what
    BNext's figures of the networks with 8-bit stem, gates and classifier are.

    Args:
        count: A layer or a network.
        rest: Arithmetic of the products that are not binary. A binary factor and a real one count as real.

    Example:
        ReActNet-A: 4.8169 G binary and 11.862 M real multiply-accumulates, published as 0.87e8 OPs.

        >>> network = LayerOps("", "", binary_macs=4_816_896_000, float_macs=11_862_016)
        >>> operations(network) / 1e6
        87.126016

    References:
        Liu et al., "Bi-Real Net", ECCV 2018; Liu et al., "ReActNet", ECCV 2020; Guo et al.,
        "Join the high accuracy club on ImageNet with a binary neural network ticket" (BNext), 2022.
    """
    real = count.float_macs + count.mixed_macs
    return count.bit_products / 64 + (real if rest == "fp32" else real / 8)


def ace(count: Count, *, rest_bits: int = 16) -> int:
    r"""Return the arithmetic computation effort of one image: $\sum_{i, j} n_{ij} \cdot i \cdot j$.

    There are $n_{ij}$ multiply-accumulates of factors of $i$ and $j$ bits.

    Args:
        count: A layer or a network.
        rest_bits: Width of the factors that are not binary; 16 is the paper's bfloat16.

    Example:
        ReActNet-A, published as 7.9e9.

        >>> network = LayerOps("", "", binary_macs=4_816_896_000, float_macs=11_862_016)
        >>> ace(network) / 1e9
        7.853572096

    References:
        Zhang, Zhang and Lew, "PokeBNN: A binary pursuit of lightweight accuracy", CVPR 2022.
    """
    return count.bit_products + rest_bits * count.mixed_products + rest_bits**2 * count.float_macs


def degree_of_binarization(count: Count, *, rest: Rest = "fp32") -> float:
    r"""Return the share of the operations that are binary: $\mathrm{BOPs} / (64 \cdot \mathrm{OPs})$.

    Args:
        count: A layer or a network.
        rest: As in `operations`.

    Example:
        BNext-T with its other layers in 8 bits, published as 97.81 %.

        >>> network = LayerOps("", "", binary_macs=4_816_896_000, float_macs=13_344_512)
        >>> round(100 * degree_of_binarization(network, rest="int8"), 2)
        97.83

    References:
        Guo et al., BNext, 2022.
    """
    total = operations(count, rest=rest)
    return count.binary_macs / 64 / total if total else 0.0


def size_bytes(count: Count, *, rest: Rest = "fp32") -> int:
    """Return the bytes of the parameters: one bit a binary weight, k bits a quantized one, four bytes (or one) others.

    Running statistics of batch norm are no parameters, and not in it; nor are the scales that int8 would need.

    Args:
        count: A layer or a network.
        rest: Storage of the other parameters.

    Example:
        >>> layer = LayerOps("", "", parameters=296, binary_weights=288)
        >>> size_bytes(layer), size_bytes(layer, rest="int8")
        (68, 44)
    """
    real = count.parameters - count.binary_weights - count.low_bit_weights
    return (count.quantized_weight_bits + 7) // 8 + (4 if rest == "fp32" else 1) * real


def binary_share(count: Count) -> float:
    """Return the share of the parameters that are binary weights."""
    return count.binary_weights / count.parameters if count.parameters else 0.0


def binary_mac_share(count: Count) -> float:
    """Return the share of the multiply-accumulates that have two binary factors."""
    total = count.binary_macs + count.low_bit_macs + count.mixed_macs + count.float_macs
    return count.binary_macs / total if total else 0.0
