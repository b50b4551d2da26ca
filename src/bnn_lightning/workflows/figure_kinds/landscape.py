"""Loss landscapes of trained networks."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bnn_lightning.analysis.landscape import Landscape, grid
from bnn_lightning.analysis.sharpness import basin, curvature, loss_at_radius
from bnn_lightning.figures.landscape_figures import (
    interactive_landscapes,
    landscape_contours,
    landscape_lines,
    landscape_surfaces,
)
from bnn_lightning.utils.text import text_table
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.figure_kinds.base import INTERACTIVE, Drawing, Place, run_names, several
from bnn_lightning.workflows.figure_kinds.landscape_file import read_landscape
from bnn_lightning.workflows.figure_kinds.landscape_measure import Extras, MeasureSettings, measure_runs
from bnn_lightning.workflows.messages import say
from bnn_lightning.workflows.opened import Described

# Facts that must agree between landscapes that are compared on one scale.
_SHARED = ("images", "seed", "perturb", "normalize", "bn_images")


@dataclass(kw_only=True)
class LandscapeSettings(MeasureSettings):
    """The keys of `visualize/landscape.yaml`."""

    landscape: Any
    formats: list[str] = field(default_factory=lambda: ["png", "html"])
    cap: float | None = None
    radii: list[float] | None = None
    basin_above: float = 1.0
    curvature_step: float = 0.1

    def stem(self, described: Described) -> str:
        _check_ranges(self)
        kind = self.kind
        clean = [name.removesuffix(".npz").removeprefix(f"{kind}_") for name in run_names(self.given())]
        joined = "_".join(clean) if len("_".join(clean)) < 80 else f"{clean[0]}_and_{len(clean) - 1}_more"
        return f"{kind}_{joined}{'_bn' if self.bn_images else ''}"

    def given(self) -> list[str]:
        """Return the runs and files that are named."""
        return several(self.landscape, "landscape")


def draw(settings: LandscapeSettings, described: Described, place: Place) -> Drawing:
    """Measure the loss around networks, or read earlier measurements."""
    given = settings.given()
    runs = [name for name in given if Path(name).suffix != ".npz"]
    names = run_names(given)
    read = {name: read_landscape(Path(name)) for name in given if name not in runs}
    pairs = [(run, names[given.index(run)]) for run in runs]
    measured = measure_runs(described, settings, pairs, place.ending) if runs else {}
    found = [(read | measured)[name] for name in given]
    different = [key for key in _SHARED if len({str(identity.get(key)) for _, identity, _ in found}) > 1]
    if different:
        say(f"note: not measured alike, in {', '.join(different)}: compare with care")
    header, rows = sharpness_table([(one, extras) for one, _, extras in found], settings)
    figures = _figures([one for one, _, _ in found], settings, place)
    # A line a figure, a column a network: there are more figures than networks.
    shown = [[f"{value:.4g}" if isinstance(value, float) else str(value) for value in row] for row in [header, *rows]]
    say("\n".join(text_table(list(zip(*shown, strict=True)), right=range(1, len(shown)))))
    return Drawing(figures, (header, rows), part="sharpness")


def sharpness_table(
    found: list[tuple[Landscape, Extras]], settings: LandscapeSettings
) -> tuple[list[str], list[list[Any]]]:
    """Return the sharpness of landscapes as a plain table: names of the columns, and a row a network.

    Args:
        found: Landscapes, and the eigenvalues beside them.
        settings: Says at which radii.

    Raises:
        ValueError: A radius outside a grid.
    """
    rows: list[dict[str, Any]] = []
    header: list[str] = []
    for one, extras in found:
        radius = float(one.steps[-1])
        row: dict[str, Any] = {"network": one.name, "loss": float(one.losses[one.center])}
        for at in settings.radii or (radius / 4, radius / 2, radius):
            row[f"loss_at_{at:g}"], row[f"highest_at_{at:g}"] = loss_at_radius(one, at)
        region = basin(one, settings.basin_above)
        row["basin"], row["basin_is_cut"] = region.size, region.is_cut
        row["curvature"], row["curvature_step"] = curvature(one, settings.curvature_step)
        for name in ("hessian_surrogate", "hessian_surrogate_filter"):
            row[name] = extras.get(name, "")
        rows.append(row)
        header = list(dict.fromkeys([*header, *row]))
    return header, [[row.get(name, "") for name in header] for row in rows]


def _figures(landscapes: list[Landscape], settings: LandscapeSettings, place: Place) -> dict[str, Any]:
    if unfinished := [one.name for one in landscapes if not one.is_complete]:
        raise ValueError(f"{unfinished[0]} is not measured whole: go on with the command that began it.")
    if len({one.losses.ndim for one in landscapes}) > 1:
        raise ValueError("`landscape` names files of one and of two directions: draw them apart.")
    if landscapes[0].losses.ndim == 1:
        return {"": landscape_lines(landscapes, cap=settings.cap)}
    figures: dict[str, Any] = {
        "": landscape_contours(landscapes, cap=settings.cap),
        "surface": landscape_surfaces(landscapes, cap=settings.cap),
    }
    if INTERACTIVE in place.formats:
        figures["interactive"] = interactive_landscapes(landscapes, cap=settings.cap)
    return figures


def _check_ranges(settings: LandscapeSettings) -> None:
    if settings.dimensions not in (1, 2):
        raise UserError(f"`dimensions` must be 1 or 2, got {settings.dimensions}.")
    for key in ("basin_above", "curvature_step"):
        if getattr(settings, key) <= 0:
            raise UserError(f"`{key}` must be positive, got {getattr(settings, key)}.")
    if outside := [at for at in settings.radii or [] if not 0 < at <= settings.radius]:
        raise UserError(f"`radii` must be positive and at most radius={settings.radius:g}, got {outside[0]:g}.")
    grid(settings.points, settings.radius)
