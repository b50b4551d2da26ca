"""The page says what it was given, escaped, in one file; and a real browser shows it."""

import base64
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bnn_lightning.report_page import Example, Matrix, RunContent, Table, render
from bnn_lightning.report_page.charts import heat_map, line_chart, number, ticks
from tests.report_page.browser import BROWSER, look

EVIL = "<script>alert('x')</script> & \"quotes\""


def full(classes: int = 4, size: int = 8) -> RunContent:
    rng = np.random.default_rng(0)
    names = [f"class {i}" for i in range(classes)]
    confusion = rng.integers(0, 9, (classes, classes)).astype(float) + 50 * np.eye(classes)
    pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    curves = {
        "epoch": [0.0, 1.0, 2.0],
        "train/loss": [2.0, 1.0, 0.5],
        "test/acc": [0.25, 0.5, 0.75],
        "binary/flip_rate": [0.4, 0.1, 0.001],
        "gradient/feature": [math.nan, 0.5, 0.25],
    }
    return RunContent(
        title=EVIL,
        subtitle="a network",
        facts={"top-1": "75.00 %"},
        notes=["a note"],
        curves=curves,
        examples=[Example(pixels, "class 0", "class 0", 0.9), Example(pixels[..., 0], "class 1", EVIL, 0.4)],
        mistakes=[Example(pixels, "class 2", "class 3", 0.99)],
        confusion=Matrix(confusion, names),
        profile=Table(["", "", ""], [["OPs", "1.07 M", "BOPs/64 + FLOPs"]]),
        layers=Table(["name", "parameters"], [["conv" * 40, 1234567]]),
        signs=Table(["layer", "weights"], [["conv", 10]]),
        bank=Matrix(np.full((classes, classes), 1 / classes), names),
        packed=Table(["", "", ""], [["size", "1 bytes", EVIL]]),
        latency=Table(["network", "ms"], [["packed", 0.25]]),
        overrides=["model=mlp", "x" * 300],
        config="model:\n  name: " + "long " * 60,
    )


class Structure(HTMLParser):
    """Elements are closed in the order of their opening; nothing is named that lies elsewhere."""

    void = ("br", "img", "link", "meta", "line", "rect", "circle", "polyline")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.void[:4]:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.seen if tag == name]


def test_every_section_is_there_and_nothing_else_is_fetched() -> None:
    page = render(full())
    structure = Structure(page)
    keys = ["training", "predictions", "classes", "network", "signs", "bank", "packed", "configuration"]
    assert [found["id"] for found in structure.all("details") if "id" in found] == keys
    assert [link["href"] for link in structure.all("a")] == [f"#{key}" for key in keys]
    addresses = [a[k] for _, a in structure.seen for k in ("src", "href", "srcset", "action") if a.get(k)]
    assert all(str(address).startswith(("data:", "#")) for address in addresses)
    assert not structure.all("script")
    assert "url(" not in page
    assert "@import" not in page


def test_text_is_escaped() -> None:
    page = render(full())
    assert "<script>" not in page
    assert page.count("&lt;script&gt;") >= 4


def test_what_is_empty_has_no_section() -> None:
    structure = Structure(render(RunContent("a run")))
    assert not structure.all("details")
    assert not structure.all("a")


def test_numbers_of_the_classes() -> None:
    page = render(full())
    confusion = full().confusion
    assert confusion is not None
    recall = 100 * confusion.values.diagonal() / confusion.values.sum(axis=1)
    shown = re.findall(r"<span>([\d.]+)</span></td>", page)
    assert sorted(f"{value:.1f}" for value in recall) == sorted(shown)
    assert shown[0] == f"{min(recall):.1f}"  # the worst first


def test_pictures_are_the_pixels() -> None:
    run = full()
    sources = [image["src"] for image in Structure(render(run)).all("img")]
    assert len(sources) == 3
    for source, example in zip(sources, [*run.examples, *run.mistakes], strict=True):
        kind, data = str(source).split(",")
        assert kind == "data:image/png;base64"
        assert np.array_equal(np.array(Image.open(io.BytesIO(base64.b64decode(data)))), example.pixels)


def test_large_photos_become_small_ones_and_many_classes_one_picture() -> None:
    structure = Structure(render(full(classes=40, size=400)))
    *photos, confusion, bank = structure.all("img")
    image = Image.open(io.BytesIO(base64.b64decode(str(photos[0]["src"]).split(",")[1])))
    assert (image.format, max(image.size)) == ("JPEG", 160)
    for matrix in (confusion, bank):
        image = Image.open(io.BytesIO(base64.b64decode(str(matrix["src"]).split(",")[1])))
        assert (image.mode, image.size) == ("RGBA", (40, 40))
    alpha = np.array(Image.open(io.BytesIO(base64.b64decode(str(confusion["src"]).split(",")[1]))))[..., 3]
    assert (alpha.diagonal() == 255).all()


def test_lines_go_through_their_points() -> None:
    chart = line_chart("a", {"one": [(1, 0.0), (2, 5.0), (3, 10.0)], "gone": [(1, math.nan)]}, unit=" %")
    (line,) = chart.lines
    (x1, y1), (x2, y2), (x3, y3) = line.places
    assert x2 - x1 == x3 - x2 > 0
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.2)  # places are rounded
    assert y1 > y2
    assert [text for _, _, text in line.handles][1] == "one, 2: 5 %"
    assert (line.name, line.last, chart.label) == ("one", "10 %", "a: one 10 %")


def test_a_wide_range_is_logarithmic() -> None:
    chart = line_chart("a", {"one": [(1, 1.0), (2, 0.1), (3, 0.01), (4, 0.0)]}, log=True)
    ys = [y for _, y in chart.lines[0].places]
    assert len(ys) == 3  # zero has no place
    assert ys[1] - ys[0] == pytest.approx(ys[2] - ys[1], abs=0.2)


def test_lines_of_the_page_are_those_of_the_curves() -> None:
    points = re.findall(r'<polyline points="([^"]+)"', render(RunContent("a", curves=full().curves)))
    assert [len(line.split()) for line in points] == [3, 3, 2, 3]


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (59.3, 61.2), (-3.0, 7.5), (1e-5, 3e-5), (0.0, 700.0), (2.0, 2.0)])
def test_ticks_are_few_round_and_within(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 1 <= len(found) <= 6
    assert all(low - 1e-12 <= value <= high + 1e-12 for value in found)
    assert found == sorted(found)


def test_squares_hold_their_numbers() -> None:
    picture = heat_map(Matrix(np.array([[7.0, 0.0], [2.0, 3.0]]), ["a", "b"]), rows="true", columns="said", counts=True)
    assert [cell.title for cell in picture.cells] == [
        *("true a, said a: 7", "true a, said b: 0", "true b, said a: 2", "true b, said b: 3")
    ]
    assert [cell.text for cell in picture.cells] == ["7", "", "2", "3"]
    opacity = [cell.opacity for cell in picture.cells]
    assert opacity[0] == opacity[3] == max(opacity)  # the largest of its row
    with pytest.raises(ValueError, match="`values` must be 3 x 3"):
        Matrix(np.zeros((2, 2)), ["a", "b", "c"])


def test_numbers_and_tables() -> None:
    assert number(0.5) == "0.5"
    layers = Table(["n", "m"], [["a<b", 1], ["b", 2000]])
    page = render(RunContent("a", layers=layers, profile=Table(["", ""], [["x", 1]])))
    assert '<td class="number">2,000</td>' in page
    assert "<td>a&lt;b</td>" in page


@pytest.mark.skipif(BROWSER is None, reason="needs a Chromium")
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_it_on_a_phone(dark: bool, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(render(full(classes=20)), encoding="utf-8")
    found, said = look(page, tmp_path, width=390, dark=dark)
    assert said == []
    assert found["scroll"] <= found["width"] <= 390
    assert found["pictures"] == 4 + 2 + 3  # charts, matrices, photos
    assert (found["flat"], found["broken"], found["wide"]) == (0, 0, 0)
    light = [sum(map(int, re.findall(r"\d+", found[name])[:3])) for name in ("ink", "ground")]
    assert (light[0] > light[1]) == dark
