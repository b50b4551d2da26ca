"""The page of a run: one file, without scripts and without a network."""

from importlib.resources import files

from bnn_lightning.report_page import sections
from bnn_lightning.report_page.content import RunContent
from bnn_lightning.report_page.html import Html, join, tag

# Nothing is fetched from anywhere and nothing runs, whatever the names of classes or a configuration hold.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_SECTIONS = {
    "training": ("Training", sections.training),
    "predictions": ("Predictions", sections.predictions),
    "classes": ("Classes", sections.classes),
    "network": ("Network", sections.network),
    "signs": ("Binary weights", sections.signs),
    "bank": ("Soft-label bank", sections.bank),
    "packed": ("Packed file", sections.packed),
    "configuration": ("Configuration", sections.configuration),
}


def render(run: RunContent) -> str:
    """Return the page of a run as HTML.

    All of it is in the text: pictures as data, charts as SVG in the colors of the page, which follow the reader's
    light or dark scheme. There is no script, and nothing is fetched. Sections fold; wide tables scroll in their box.

    Args:
        run: What to show; what is empty has no section.

    Example:
        >>> page = render(RunContent("digits", curves={"epoch": [0.0, 1.0], "train/loss": [2.0, 1.0]}))
        >>> page.startswith("<!doctype html>"), page.count("<svg"), "<script" in page
        (True, 1, False)
    """
    found = {key: (title, make(run)) for key, (title, make) in _SECTIONS.items()}
    shown = {key: (title, inside) for key, (title, inside) in found.items() if inside is not None}
    links = [tag("a", title, href=f"#{key}") for key, (title, _) in shown.items()]
    body = [_header(run), tag("nav", *links, aria_label="sections")]
    body += [_section(key, title, inside) for key, (title, inside) in shown.items()]
    body.append(tag("footer", "Written by bnn report."))
    return f"<!doctype html>\n{tag('html', _head(run), tag('body', *body), lang='en')}\n"


def _head(run: RunContent) -> Html:
    style = files("bnn_lightning.report_page").joinpath("style.css").read_text(encoding="utf-8")
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("link", rel="icon", href="data:,"),
        tag("title", run.title),
        tag("style", Html(style)),
    )


def _header(run: RunContent) -> Html:
    facts = [tag("div", tag("dt", name), tag("dd", value)) for name, value in run.facts.items()]
    parts = [tag("h1", run.title)]
    parts += [tag("p", run.subtitle, class_="muted")] if run.subtitle else []
    parts += [tag("dl", *facts, class_="facts")] if facts else []
    parts += [tag("p", note, class_="muted") for note in run.notes]
    return tag("header", *parts)


def _section(key: str, title: str, inside: Html) -> Html:
    summary = tag("summary", tag("h2", title))
    return tag("details", summary, tag("div", join(inside), class_="inside"), id=key, open=True)
