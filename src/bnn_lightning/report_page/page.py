"""The page of a run: one file, without scripts and without a network."""

from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from bnn_lightning.report_page.charts import heat_map, number
from bnn_lightning.report_page.content import RunContent, Table
from bnn_lightning.report_page.pictures import matrix_picture, photo
from bnn_lightning.report_page.tables import FLIPS, TRAINING, all_epochs, curve_charts, most_confused, per_class


def render(run: RunContent) -> str:
    """Return the page of a run as HTML.

    All of it is in the text: pictures as data, charts as SVG in the colors of the page, which follow the reader's
    light or dark scheme. There is no script, and nothing is fetched. Sections fold; wide tables scroll in their box.

    Args:
        run: Content of the page; what is empty has no section.

    Example:
        >>> page = render(RunContent("digits", curves={"epoch": [0.0, 1.0], "train/loss": [2.0, 1.0]}))
        >>> page.startswith("<!doctype html>"), page.count("<svg"), "<script" in page
        (True, 1, False)
    """
    folder = files("bnn_lightning.report_page")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters |= {
        "matrix_picture": matrix_picture,
        "number": number,
        "numeric": _numeric,
        "photo": photo,
    }
    template = environment.from_string(folder.joinpath("page.html").read_text(encoding="utf-8"))
    return (
        template.render(
            run=run,
            style=Markup(folder.joinpath("style.css").read_text(encoding="utf-8")),
            charts=curve_charts(run.curves, TRAINING),
            flips=next(iter(curve_charts(run.curves, [FLIPS])), None),
            all_epochs=all_epochs(run.curves),
            per_class=per_class(run.confusion) if run.confusion else [],
            most_confused=most_confused(run.confusion) if run.confusion else None,
            heat_map=heat_map,
        ).strip()
        + "\n"
    )


def _numeric(table: Table) -> list[bool]:
    """Return for each column whether all its cells are numbers, which stand at the right."""
    return [
        bool(table.rows) and all(isinstance(row[index], int | float) for row in table.rows)
        for index in range(len(table.header))
    ]
