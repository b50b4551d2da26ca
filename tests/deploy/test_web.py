"""Web pages: their WebAssembly module in Node, and the page in a headless Chromium."""

import csv
import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bnn_lightning.data.preparation import Preparation
from bnn_lightning.deploy import PackedInfo, WebError, pack, save, write_web
from bnn_lightning.deploy.export import web
from bnn_lightning.deploy.format.plan_section import PlanSection
from bnn_lightning.deploy.runtime import native
from bnn_lightning.models import create_backbone
from bnn_lightning.zoo import packed_file
from tests.deploy.browser import CHROMIUM, Browser, browser, served
from tests.deploy.test_native import linear, plan

NODE = shutil.which("node")
WIDTHS = (390, 1280)
pytestmark = pytest.mark.skipif(
    not (web.MODULE.is_file() and native.LIBRARY.exists()), reason="needs the compiled module and library"
)
needs_node = pytest.mark.skipif(NODE is None, reason="needs Node")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def color(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of a network for color pictures, which has names of classes and cuts out the middle."""
    folder = tmp_path_factory.mktemp("color")
    preparation = Preparation(size=(32, 32), channels=3, resize=(36, 40), interpolation="bicubic")
    names = ("tench", "a <b>bold</b> name", "größer", "d", "e", "f", "g", "h", "i", "j", "k", "l")
    network = create_backbone("resnet20", num_classes=12, image_size=32).eval()
    save(pack(network), folder / "net.bnn", PackedInfo("resnet20", 3, 32, names, {}, preparation))
    write_web(folder / "net.bnn", folder / "page")
    return folder / "page"


@pytest.fixture(scope="module")
def gray(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of the trained network for digits."""
    folder = tmp_path_factory.mktemp("gray")
    write_web(packed_file("zoo:mnist_mlp"), folder / "page")
    return folder / "page"


def pictures(folder: Path) -> list[Path]:
    """Write pictures of odd shapes, gray and in color."""
    rng = np.random.default_rng(0)
    shapes = [(28, 28), (61, 40), (7, 90, 3), (150, 200, 3), (1, 1, 3)]
    files = [folder / f"{number}.png" for number in range(len(shapes))]
    for file, shape in zip(files, shapes, strict=True):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(file)
    return files


def check(result: dict[str, Any], page: Path, picture: Path) -> None:
    """Hold what a page computes to the C library of this machine: equal bytes, and logits but for rounding."""
    network = native.load(page / "model.bnn")
    prepared = network.prepare(np.asarray(Image.open(picture)))
    assert list(result["prepared"]) == prepared.ravel().tolist()
    (logits,) = network(prepared[None])
    np.testing.assert_allclose(result["logits"], logits, atol=1e-4 * np.abs(logits).max())
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    np.testing.assert_allclose(result["probabilities"], shares, atol=1e-4)
    assert 0 < result["milliseconds"] < 1000


OPEN = """
const fs = require("fs"), [page, picture] = process.argv.slice(1);
const html = fs.readFileSync(page + "/index.html", "utf8");
const engine = html.match(/<script id="engine">([^]*?)<\\/script>/)[1];
const open = new Function(engine + "; return openNetwork")();
"""
SCRIPT = """
(async () => {
  const network = await open(fs.readFileSync(page + "/bnn.wasm"), fs.readFileSync(page + "/model.bnn"));
  const results = JSON.parse(picture).map(([width, height, channels, file]) =>
    network.classify({ width, height, channels, pixels: fs.readFileSync(file) }));
  const plain = results.map((result) => ({ ...result, prepared: [...result.prepared] }));
  console.log(JSON.stringify({ name: network.name, names: network.names, results: plain }));
})();
"""


def in_node(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script in Node."""
    words = [str(NODE), "-e", script, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


@needs_node
@pytest.mark.parametrize("kind", ["gray", "color"])
def test_node_runs_the_module(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    page: Path = request.getfixturevalue(kind)
    given, files = [], pictures(tmp_path)
    for file in files:
        pixels = np.asarray(Image.open(file))
        file.with_suffix(".raw").write_bytes(pixels.tobytes())
        given.append([pixels.shape[1], pixels.shape[0], pixels.size // (pixels.shape[0] * pixels.shape[1])])
    words = [[*sides, str(file.with_suffix(".raw"))] for sides, file in zip(given, files, strict=True)]
    done = in_node(OPEN + SCRIPT, page, json.dumps(words))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    facts = native.load(page / "model.bnn").facts
    assert answer["name"] == facts.name
    assert tuple(answer["names"]) == (facts.class_names or tuple(map(str, range(facts.num_classes))))
    for result, file in zip(answer["results"], files, strict=True):
        check(result, page, file)


@needs_node
def test_a_damaged_model_is_one_error_of_the_module(gray: Path, tmp_path: Path) -> None:
    page = tmp_path / "page"
    shutil.copytree(gray, page)
    data = bytearray((page / "model.bnn").read_bytes())
    data[-100] ^= 1
    (page / "model.bnn").write_bytes(data)
    done = in_node(OPEN + SCRIPT, page, "[]")
    assert done.returncode != 0
    with pytest.raises(native.RuntimeFileError) as error:
        native.load(bytes(data))
    assert str(error.value) in done.stderr


REFUSED = """
const bytes = Uint8Array.from({ length: 4800 }, (_, k) => 31 * k), rgba = new Uint8Array(6400);
const wrong = [
  [3, rgba], [3, bytes.slice(0, 1600)], [1, bytes], [4, rgba], [3, bytes.buffer], [3, [...bytes]], [3, undefined],
  [3, Float32Array.from(bytes, (value) => value / 255)], [3, new Uint16Array(4800)],
];
(async () => {
  const network = await open(fs.readFileSync(page + "/bnn.wasm"), fs.readFileSync(page + "/model.bnn"));
  const same = [bytes, new Uint8ClampedArray(bytes)].map((pixels) =>
    network.classify({ width: 40, height: 40, channels: 3, pixels }).logits);
  const refused = wrong.map(([channels, pixels]) => {
    try {
      network.classify({ width: 40, height: 40, channels, pixels });
    } catch (error) {
      return error.message;
    }
  });
  console.log(JSON.stringify({ same, refused }));
})();
"""


@needs_node
def test_other_pixels_than_the_sides_say_are_refused(color: Path) -> None:
    done = in_node(OPEN + REFUSED, color)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["same"][0] == answer["same"][1]
    for text, number in zip(answer["refused"], ("6400", "1600", "4800", "1 or 3", *["Uint8Array"] * 5), strict=True):
        assert number in text


NARROW = """
(async () => {
  const { instance: { exports: c } } = await WebAssembly.instantiate(fs.readFileSync(page));
  const section = fs.readFileSync(picture), size = 140e6, [plan, place, error] = [section.length, 4, 256].map(c.malloc);
  const constants = Math.ceil(c.malloc(size + 64) / 64) * 64;
  new Uint8Array(c.memory.buffer).set(section, plan);
  console.log(c.bnn_open_sections(plan, section.length, constants, size, 0, place, error));
})();
"""


@needs_node
def test_no_size_wraps_where_addresses_have_32_bits(tmp_path: Path) -> None:
    files = {}
    for size in (64, (1 << 32) + 64):
        made = dataclasses.replace(plan(linear()), derived_size=size)
        files[size] = tmp_path / str(size)
        files[size].write_bytes(PlanSection((made,), "net").to_bytes())
    script = OPEN.splitlines()[1] + NARROW
    answers = [in_node(script, web.MODULE, file) for file in files.values()]
    assert [answer.stdout for answer in answers] == ["0\n", "5\n"], answers  # there is not enough memory


MEMORY = """
WebAssembly.instantiate(require("fs").readFileSync(process.argv[1])).then(({ instance: { exports: c } }) => {
  let state = 1;
  const draw = (n) => (state = (state * 48271) % 2147483647) % n, blocks = [];
  const bytes = (at, size) => new Uint8Array(c.memory.buffer, at, size);
  for (let turn = 0; turn < 3000; turn++) {
    if (blocks.length && draw(5) < 2) {
      const [at, size, value] = blocks.splice(draw(blocks.length), 1)[0];
      if (!bytes(at, size).every((byte) => byte === value)) throw new Error("A block was overwritten.");
      c.free(at);
    } else {
      const size = draw(20) ? draw(3000) : draw(400000), at = c.malloc(size);
      if (!at || at % 16) throw new Error(`No memory at ${at}.`);
      bytes(at, size).fill(turn % 256);
      blocks.push([at, size, turn % 256]);
    }
  }
  for (const [at] of blocks) c.free(at);
  const before = c.memory.buffer.byteLength;
  for (let turn = 0; turn < 100; turn++) c.free(c.malloc(before / 2));
  console.log(c.memory.buffer.byteLength === before, c.malloc(3 * 2 ** 30 + 1), c.malloc(2 ** 32 - 1));
});
"""


@needs_node
def test_memory_of_the_module() -> None:
    done = in_node(MEMORY, web.MODULE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["true", "0", "0"]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


def draw(page: Browser) -> None:
    """Draw a 1 in the middle."""
    left, top, side = page.value("(r => [r.left, r.top, r.width])(canvas.getBoundingClientRect())")
    point = {"x": left + side / 2, "button": "left", "buttons": 1, "clickCount": 1}
    for kind, y in (("Pressed", 0.2), ("Moved", 0.5), ("Moved", 0.8), ("Released", 0.8)):
        page.call("Input.dispatchMouseEvent", type=f"mouse{kind}", y=top + y * side, **point)
    page.wait("result")


@needs_chromium
def test_a_page_in_chromium(gray: Path, color: Path, chromium: Browser, tmp_path: Path) -> None:
    with served(gray) as address:
        chromium.requests.clear()
        chromium.open(address, "network")
        assert chromium.value("document.title") == native.load(gray / "model.bnn").facts.name
        draw(chromium)
        assert chromium.value("$('answer').textContent").startswith("1, ")
        assert len(chromium.value("[...$('classes').rows].map((row) => row.innerText)")) == 10
        assert sum(chromium.value("result.probabilities")) == pytest.approx(1)
        grounds = set()
        for width in WIDTHS:
            for scheme in ("light", "dark"):
                sides = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
                chromium.call("Emulation.setDeviceMetricsOverride", **sides)
                feature = {"name": "prefers-color-scheme", "value": scheme}
                chromium.call("Emulation.setEmulatedMedia", features=[feature])
                assert chromium.value("document.documentElement.scrollWidth") <= width
                columns = chromium.value(
                    "new Set([...document.querySelectorAll('section')].map((s) => s.offsetLeft)).size"
                )
                assert columns == (1 if width < 500 else 2)
                grounds.add(chromium.value("getComputedStyle(document.body).backgroundColor"))
        assert len(grounds) == 2
        chromium.value("$('clear').click()")
        assert chromium.value("result === null && $('table').hidden")
        (tmp_path / "notes.png").write_text("no picture")
        chromium.choose("#file", tmp_path / "notes.png")
        chromium.wait("!$('problem').hidden")
        assert "notes.png" in chromium.value("$('problem').textContent")
        assert chromium.requests == [address, f"{address}bnn.wasm", f"{address}model.bnn"]
    with served(color) as address:
        chromium.open(address, "network")
        for file in pictures(tmp_path):
            check(classified(chromium, file), color, file)
        names = chromium.value("[...$('classes').rows].map((row) => row.cells[0].textContent)")
        assert len(names) == 5
        assert set(names) <= set(native.load(color / "model.bnn").facts.class_names)
    assert chromium.errors == []


def classified(page: Browser, picture: Path) -> dict[str, Any]:
    """Choose a picture and return what the page computes."""
    page.value("clear()")
    page.choose("#file", picture)
    page.wait("result")
    answer: dict[str, Any] = page.value("({ ...result, prepared: [...result.prepared] })")
    return answer


PASTE = """(async () => {{
  const blob = new Blob([new Uint8Array({})], {{ type: "image/png" }});
  await navigator.clipboard.write([new ClipboardItem({{ "image/png": blob }})]);
}})()"""
NO_CANVAS = "OffscreenCanvasRenderingContext2D.prototype.getImageData = (x, y, ...sides) => new ImageData(...sides)"


@needs_chromium
@pytest.mark.slow
def test_large_and_pasted_pictures(color: Path, chromium: Browser, tmp_path: Path) -> None:
    # Wider than a canvas of Chromium may be, and several squares in both directions.
    rng = np.random.default_rng(0)
    wide, large, small = (tmp_path / name for name in ("wide.png", "large.png", "small.png"))
    Image.fromarray(np.tile(np.arange(70_000) // 300, (40, 1)).astype(np.uint8)).save(wide)
    Image.fromarray(rng.integers(0, 256, (2050, 4100, 3), dtype=np.uint8)).save(large, compress_level=1)
    Image.fromarray(rng.integers(0, 256, (30, 50, 3), dtype=np.uint8)).save(small)
    with served(color) as address:
        chromium.open(address, "network")
        for file in (wide, large):
            check(classified(chromium, file), color, file)
        chromium.value("clear()")
        chromium.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
        chromium.call("Emulation.setFocusEmulationEnabled", enabled=True)
        chromium.value(PASTE.format(list(small.read_bytes())))
        chromium.call("Input.dispatchKeyEvent", type="keyDown", key="v", code="KeyV", modifiers=2, commands=["paste"])
        chromium.wait("result")
        check(chromium.value("({ ...result, prepared: [...result.prepared] })"), color, small)
        chromium.value(NO_CANVAS)
        chromium.choose("#file", wide)
        chromium.wait("!$('problem').hidden")
        assert "70000 × 40" in chromium.value("$('problem').textContent")
        assert chromium.value("result === null && $('table').hidden")
    assert chromium.errors == []


@needs_chromium
def test_a_page_says_what_is_missing(gray: Path, chromium: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page"
    shutil.copytree(gray, page)
    (page / "model.bnn").unlink()
    with served(page) as address:
        chromium.open(address, "!$('problem').hidden")
        assert "model.bnn" in chromium.value("$('problem').textContent")
    chromium.open((page / "index.html").as_uri(), "!$('problem').hidden")
    assert "http.server" in chromium.value("$('problem').textContent")
    chromium.errors.clear()


@needs_chromium
@pytest.mark.slow
@pytest.mark.data
def test_100_images_have_the_classes_of_bnn_predict(
    gray: Path, chromium: Browser, data_root: Path, tmp_path: Path
) -> None:
    raw = (data_root / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()[16 : 16 + 100 * 28 * 28]
    images = np.frombuffer(raw, np.uint8).reshape(100, 28, 28)
    files = [tmp_path / f"{number:03}.png" for number in range(100)]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).save(file)
    words = ["predict", f"packed={gray / 'model.bnn'}", f"images={tmp_path}", "out=out.csv", "top=1"]
    subprocess.run([sys.executable, "-m", "bnn_lightning.cli.main", *words], cwd=tmp_path, check=True, timeout=300)
    with (tmp_path / "out.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["image"]).name for row in rows] == [file.name for file in files]
    with served(gray) as address:
        chromium.open(address, "network")
        for picture, row in zip(files, rows, strict=True):
            result = classified(chromium, picture)
            best = int(np.argmax(result["probabilities"]))
            assert str(best) == row["class"]
            assert result["probabilities"][best] == pytest.approx(float(row["probability"]), abs=1e-4)
            assert re.match(rf"{best}, \d", chromium.value("$('answer').textContent"))


def test_folders(gray: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = gray / "model.bnn"
    assert sorted(path.name for path in gray.iterdir()) == sorted(web.FILES)
    assert write_web(model, gray) == sum(path.stat().st_size for path in gray.iterdir())
    others = tmp_path / "others"
    others.mkdir()
    (others / "model.bnn").write_text("somebody's")
    for wrong in (others, others / "model.bnn"):
        with pytest.raises(WebError, match=re.escape(str(wrong))):
            write_web(model, wrong)
    assert [path.name for path in others.iterdir()] == ["model.bnn"]
    assert (others / "model.bnn").read_text() == "somebody's"
    monkeypatch.setattr(web, "MODULE", tmp_path / "bnn.wasm")
    with pytest.raises(WebError, match="ziglang"):
        write_web(model, tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_a_network_without_preparation_is_refused(tmp_path: Path) -> None:
    network = create_backbone("resnet20", num_classes=10, image_size=32).eval()
    save(pack(network), tmp_path / "net.bnn", PackedInfo("resnet20", 3, 32))
    with pytest.raises(WebError, match="preparation"):
        write_web(tmp_path / "net.bnn", tmp_path / "page")
    assert not (tmp_path / "page").exists()
