"""Report of `binarize`: the new class of each layer, and the reason for each layer that stays real."""

from dataclasses import dataclass

from bnn_lightning.utils.text import text_table


@dataclass(frozen=True)
class Change:
    """One row of a `BinarizeReport`.

    Attributes:
        name: Name of the module in the network.
        before: The layer as it is, such as `Conv2d(64, 128, 3x3)`.
        after: The layer that takes its place, or empty where it stays.
        reason: The kind or rule that decided.
        num_weights: Elements of its weight; 0 of activations.
        real_weights: Whether the weights stay real in the layer that takes its place.
    """

    name: str
    before: str
    after: str
    reason: str
    num_weights: int = 0
    real_weights: bool = False


@dataclass(frozen=True, repr=False)
class BinarizeReport:
    """The result of `binarize`, module by module.

    Attributes:
        layers: Convolutions and linear layers, binary or real.
        activations: Exchanged activations.
        constant: Names of binary layers whose inputs have one sign, so that they learn nothing. They are known only
            where `binarize` is given an `example`.
        dry_run: Whether the network was left as it is.

    Example:
        >>> BinarizeReport((Change("fc", "Linear(64, 10)", "", "last", 640),), ())
        0 of 1 layers become binary: 0 of 640 weights (0.0 %)
          fc  Linear(64, 10)  stays real (last)
    """

    layers: tuple[Change, ...]
    activations: tuple[Change, ...]
    constant: tuple[str, ...] = ()
    dry_run: bool = False

    @property
    def binary(self) -> tuple[str, ...]:
        """Names of the exchanged layers, in module order."""
        return tuple(change.name for change in self.layers if change.after)

    @property
    def real(self) -> dict[str, str]:
        """Names of the layers that stay real, and why."""
        return {change.name: change.reason for change in self.layers if not change.after}

    def __repr__(self) -> str:
        all_weights = sum(change.num_weights for change in self.layers)
        weights = sum(change.num_weights for change in self.layers if change.after and not change.real_weights)
        share = 100 * weights / all_weights if all_weights else 0.0
        verb = "would become" if self.dry_run else "become"
        head = (
            f"{len(self.binary)} of {len(self.layers)} layers {verb} binary: "
            f"{weights:,} of {all_weights:,} weights ({share:.1f} %)"
        )
        rows = [(c.name, c.before, _outcome(c)) for c in (*self.layers, *self.activations)]
        lines = [head, *(f"  {line}" for line in text_table(rows))]
        lines += [f"  INPUT OF ONE SIGN: {name} sees no negative value, and learns nothing" for name in self.constant]
        return "\n".join(lines)


def _outcome(change: Change) -> str:
    if not change.after:
        return f"stays real ({change.reason})"
    notes = [note for note in (change.reason, "real weights" if change.real_weights else "") if note]
    return f"-> {change.after}" + (f" ({', '.join(notes)})" if notes else "")
