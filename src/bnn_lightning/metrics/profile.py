"""Profile of a network: exact counts by layer, and their sums by the conventions of papers."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import nn

from bnn_lightning.metrics.conventions import (
    ace,
    binary_mac_share,
    binary_share,
    degree_of_binarization,
    operations,
    size_bytes,
)
from bnn_lightning.metrics.energy import estimate_energy
from bnn_lightning.metrics.memory import activation_peak, norm_statistics
from bnn_lightning.metrics.ops import LayerOps, OpCount, count_ops, ops_table
from bnn_lightning.utils.text import text_table

COUNTS = tuple(field.name for field in fields(LayerOps) if field.type is int)


@dataclass(frozen=True)
class Profile:
    """Counts of a network for one image.

    Attributes:
        count: By layer, to the unit.
        input_size: Shape of the image, (C, H, W).
        norm_statistics: Running means and variances of batch norm: buffers, in no size below.
        activation_peak_bytes: See `activation_peak`.
    """

    count: OpCount
    input_size: tuple[int, ...]
    norm_statistics: int
    activation_peak_bytes: int

    def totals(self) -> dict[str, int | float]:
        """Return the sums, and the figures of the conventions that docs/concepts/counting.md explains."""
        count = self.count
        figures: dict[str, int | float] = {name: getattr(count, name) for name in COUNTS}
        figures |= {
            "binary_parameter_share": binary_share(count),
            "binary_mac_share": binary_mac_share(count),
            "ops": operations(count),
            "ops_int8_rest": operations(count, rest="int8"),
            "degree_of_binarization": degree_of_binarization(count),
            "degree_of_binarization_int8_rest": degree_of_binarization(count, rest="int8"),
            "ace": ace(count),
            "size_bytes": size_bytes(count),
            "size_bytes_int8_rest": size_bytes(count, rest="int8"),
            "size_bytes_fp32": 4 * count.parameters,
            "norm_statistics_bytes": 4 * self.norm_statistics,
            "activation_peak_bytes": self.activation_peak_bytes,
        }
        for name, rest, binary in (
            ("", "fp32", True),
            ("_int8_rest", "int8", True),
            ("_all_int8", "int8", False),
            ("_all_fp32", "fp32", False),
        ):
            spent = estimate_energy(count, rest=rest, binary=binary)  # type: ignore[arg-type]
            figures |= {f"energy_pj{name}": spent.arithmetic, f"weights_energy_pj{name}": spent.weights}
        return figures


def profile_network(model: nn.Module, input_size: Sequence[int]) -> Profile:
    """Count a network by running it once or twice on one image, in evaluation mode; its modes are restored.

    Args:
        model: Any network; on the meta device nothing is computed.
        input_size: Shape of one image, (C, H, W).

    Raises:
        RuntimeError: A convolution or linear layer ran in which torch's counter sees no operation.

    Example:
        >>> profile = profile_network(nn.Conv2d(3, 4, 1), (3, 2, 2))
        >>> profile.totals()["ops"], profile.totals()["size_bytes"], profile.activation_peak_bytes
        (48.0, 64, 112)
    """
    count = count_ops(model, input_size)
    return Profile(count, tuple(input_size), norm_statistics(model), activation_peak(model, input_size))


def profile_text(profile: Profile) -> str:
    """Return a table of the layers, and one of the sums by their conventions."""
    return "\n".join([ops_table(profile.count), "", *text_table(profile_rows(profile), right=[1])])


def profile_rows(profile: Profile) -> list[tuple[str, str, str]]:
    """Return the sums by their conventions as rows of text: name, figure, meaning."""
    total = profile.totals()
    percent, pj = {k: f"{100 * v:.2f} %" for k, v in total.items()}, {k: _joules(v) for k, v in total.items()}
    return [
        ("parameters", f"{total['parameters']:,}", f"{percent['binary_parameter_share']} binary"),
        ("binary MACs (BOPs)", f"{total['binary_macs']:,}", f"{percent['binary_mac_share']} of all"),
        ("OPs", _short(total["ops"]), f"BOPs/64 + FLOPs; {percent['degree_of_binarization']} binary"),
        (
            "OPs, int8 rest",
            _short(total["ops_int8_rest"]),
            f"BOPs/64 + FLOPs/8; {percent['degree_of_binarization_int8_rest']} binary",
        ),
        ("ACE", _short(total["ace"]), "sum of products of bit widths, 16-bit rest"),
        ("size", _bytes(total["size_bytes"]), "1-bit weights, fp32 rest, without batch-norm statistics"),
        ("size, int8 rest", _bytes(total["size_bytes_int8_rest"]), "1-bit weights, int8 rest"),
        ("size, all fp32", _bytes(total["size_bytes_fp32"]), "the latent weights"),
        ("batch-norm statistics", _bytes(total["norm_statistics_bytes"]), "fp32 buffers, in no size above"),
        ("activation peak", _bytes(total["activation_peak_bytes"]), "live at once, 1-bit signs, fp32 rest"),
        *(
            (
                f"energy, {label}",
                pj[f"energy_pj{name}"],
                f"45 nm arithmetic; and {pj[f'weights_energy_pj{name}']} for the weights from DRAM",
            )
            for label, name in (
                ("fp32 rest", ""),
                ("int8 rest", "_int8_rest"),
                ("all int8", "_all_int8"),
                ("all fp32", "_all_fp32"),
            )
        ),
    ]


def profile_json(profile: Profile, **facts: Any) -> str:
    """Return all counts and figures as JSON, after `facts` of the caller's."""
    layers = [asdict(layer) for layer in profile.count.layers]
    content = facts | {"input_size": list(profile.input_size), "totals": profile.totals(), "layers": layers}
    return json.dumps(content, indent=2)


def profile_csv(profile: Profile) -> str:
    """Return a line a layer, and their sums, with OPs and ACE of each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "kind", *COUNTS, "ops", "ops_int8_rest", "ace"])
    rows: list[LayerOps | OpCount] = [*profile.count.layers, profile.count]
    for row in rows:
        names = [row.name, row.kind] if isinstance(row, LayerOps) else ["total", ""]
        figures = [operations(row), operations(row, rest="int8"), ace(row)]
        writer.writerow([*names, *(getattr(row, name) for name in COUNTS), *figures])
    return text.getvalue().rstrip("\n")


def profile_line(profile: Profile) -> str:
    """Return the profile in a line.

    Example:
        >>> profile_line(profile_network(nn.Conv2d(3, 4, 1), (3, 2, 2)))
        '16 parameters, 0.00 % binary; 48 OPs (BOPs/64 + FLOPs); 64 B at one bit, rest fp32'
    """
    total = profile.totals()
    return (
        f"{total['parameters']:,} parameters, {100 * total['binary_parameter_share']:.2f} % binary; "
        f"{_short(total['ops'])} OPs (BOPs/64 + FLOPs); {_bytes(total['size_bytes'])} at one bit, rest fp32"
    )


def _short(number: float) -> str:
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= factor:
            return f"{number / factor:.2f}{unit}"
    return f"{number:g}"


def _joules(picojoules: float) -> str:
    for factor, unit in ((1e9, "mJ"), (1e6, "uJ"), (1e3, "nJ")):
        if picojoules >= factor:
            return f"{picojoules / factor:.2f} {unit}"
    return f"{picojoules:.2f} pJ"


def _bytes(number: float) -> str:
    """Return bytes in decimal and in binary units.

    Example:
        >>> _bytes(4_193_440)
        '4.19 MB (4.00 MiB)'
    """
    for power, decimal, binary in ((3, "GB", "GiB"), (2, "MB", "MiB"), (1, "kB", "KiB")):
        if number >= 1000**power:
            return f"{number / 1000**power:.2f} {decimal} ({number / 1024**power:.2f} {binary})"
    return f"{number:g} B"
