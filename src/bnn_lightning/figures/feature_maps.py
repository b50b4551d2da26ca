"""Figure of binary feature maps: inputs of binary layers for one image, before and after the sign."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from bnn_lightning.figures.style import new_figure
from bnn_lightning.figures.tables import MapTable
from bnn_lightning.utils.checks import check_integer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def telling_channels(signs: ArrayLike, number: int) -> list[int]:
    """Return the channels whose signs are most evenly +1 and -1, in their order: they show most of an image.

    Args:
        signs: (C, H, W).
        number: At most so many.
    """
    balance = np.abs(np.asarray(signs).mean((1, 2)))
    return sorted(balance.argsort(stable=True)[:number].tolist())


def plot_feature_maps(image: ArrayLike, maps: Mapping[str, MapTable], *, channels: int = 6) -> "Figure":
    """Draw an image and its feature maps: real-valued inputs of binary layers above, their signs below.

    Args:
        image: (C, H, W) in [0, 1].
        maps: By layer, as `analysis.record_maps` returns them.
        channels: Channels of each layer, those with the most even signs.

    Raises:
        ValueError: `channels` is below 1.
    """
    check_integer("channels", channels, 1)
    pixels = np.asarray(image)
    shape = pixels.shape[1] / pixels.shape[2]
    figure, axes = new_figure(2 * len(maps), channels + 1, width=1.25, height=1.2 * min(max(shape, 0.6), 1.6) + 0.12)
    for ax in axes:
        ax.set_axis_off()
    for index, (name, one) in enumerate(maps.items()):
        upper = axes[2 * index * (channels + 1) :][: channels + 1]
        lower = axes[(2 * index + 1) * (channels + 1) :][: channels + 1]
        _draw_layer(upper, lower, name, one, channels)
    shown = pixels.transpose(1, 2, 0).clip(0, 1)
    axes[0].imshow(shown if shown.shape[2] == 3 else shown[..., 0], cmap="gray", vmin=0, vmax=1)
    axes[0].set_title(f"image {pixels.shape[1]}×{pixels.shape[2]}", fontsize=7)
    figure.supxlabel("above: inputs, red positive, blue negative; below: their signs, white +1, black −1", fontsize=7.5)
    return figure


def _draw_layer(upper: "Sequence[Axes]", lower: "Sequence[Axes]", name: str, maps: MapTable, channels: int) -> None:
    real, signs = np.asarray(maps.real), np.asarray(maps.signs)
    size = "×".join(map(str, signs.shape))
    share = float((signs > 0).mean())
    lower[0].text(
        0.5,
        0.5,
        f"{name}\n{size}\n{100 * share:.0f} % are +1",
        ha="center",
        va="center",
        fontsize=7,
        transform=lower[0].transAxes,
    )
    for place, channel in enumerate(telling_channels(signs, channels), start=1):
        limit = float(np.abs(real[channel]).max()) or 1.0
        upper[place].imshow(real[channel], cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        upper[place].set_title(f"channel {channel}, ±{limit:.2g}", fontsize=6.5, pad=2)
        lower[place].imshow(signs[channel], cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
