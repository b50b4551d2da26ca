"""An estimate of energy, from the energy of single operations in a 45 nm process."""

from dataclasses import dataclass

from bnn_lightning.metrics.conventions import Count, Rest

# Picojoules an operation, 45 nm, 0.9 V (Horowitz, figure 1.1.9).
INT8_MULTIPLY, INT8_ADD, INT32_ADD = 0.2, 0.03, 0.1
FP32_MULTIPLY, FP32_ADD = 3.7, 0.9
# Picojoules for 32 bits from DRAM in the same process (Han et al., EIE, table I).
DRAM_WORD = 640.0


@dataclass(frozen=True)
class Energy:
    """Picojoules for one image.

    Attributes:
        arithmetic: Energy of all multiply-accumulates.
        weights: Energy of reading every parameter from DRAM once.
    """

    arithmetic: float
    weights: float


def mac_picojoules(rest: Rest) -> float:
    """Return the energy of a multiply-accumulate: 4.6 pJ in float32, 0.3 pJ in int8 with a sum of 32 bits.

    Example:
        >>> round(mac_picojoules("fp32"), 9), round(mac_picojoules("int8"), 9)
        (4.6, 0.3)
    """
    return FP32_MULTIPLY + FP32_ADD if rest == "fp32" else INT8_MULTIPLY + INT32_ADD


def binary_mac_picojoules() -> float:
    """Return the energy of a binary multiply-accumulate, a 64th of that of a word of 64.

    It is scaled from wider operations, which Horowitz gives, since no figure of one bit is among them: 64 products of
    one bit are the bit products of one 8-bit multiplication, to count 64 bits takes 64 full adders, as many as eight
    8-bit additions have, and one addition of 32 bits adds the count to the sum.

    Example:
        >>> round(binary_mac_picojoules(), 9)
        0.0084375
    """
    return (INT8_MULTIPLY + 8 * INT8_ADD + INT32_ADD) / 64


def estimate_energy(count: Count, *, rest: Rest = "fp32", binary: bool = True) -> Energy:
    """Estimate the energy of one image.

    Products of a binary and a real factor are additions; a factor of k bits counts as k binary ones. Left out are reads
    and writes of activations, caches and registers, instructions and control, batch norm, activation functions, pooling
    and leakage: the numbers compare networks, and predict no device.

    Args:
        count: A layer or a network.
        rest: Storage and arithmetic of everything that is not binary.
        binary: False takes the network as if nothing in it were binary: the same products, all in `rest`.

    Example:
        >>> from bnn_lightning.metrics import LayerOps
        >>> layer = LayerOps("", "", parameters=64, binary_weights=64, binary_macs=64_000)
        >>> round(estimate_energy(layer).arithmetic, 6), estimate_energy(layer).weights
        (540.0, 1280.0)
        >>> round(estimate_energy(layer, rest="int8", binary=False).arithmetic, 6)
        19200.0

    References:
        Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, figure 1.1.9; Han et al.,
        "EIE: Efficient inference engine on compressed deep neural network", ISCA 2016, table I.
    """
    mac, bits = mac_picojoules(rest), 32 if rest == "fp32" else 8
    if not binary:
        products = count.binary_macs + count.low_bit_macs + count.mixed_macs + count.float_macs
        return Energy(mac * products, bits * count.parameters * DRAM_WORD / 32)
    addition = FP32_ADD if rest == "fp32" else INT32_ADD
    few = binary_mac_picojoules() * count.bit_products + addition * count.mixed_products
    arithmetic = few + mac * count.float_macs
    real = count.parameters - count.binary_weights - count.low_bit_weights
    stored = count.quantized_weight_bits + bits * real
    return Energy(arithmetic, stored * DRAM_WORD / 32)
