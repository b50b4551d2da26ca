"""The distribution bnn-runtime: its wheel runs without torch and bnn-lightning; all targets are built."""

import ctypes
import importlib.util
import platform
import re
import runpy
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import bnn_lightning
from bnn_lightning.data.image_io import FORMATS, prepare_picture
from bnn_lightning.data.preparation import Preparation
from bnn_lightning.deploy.runtime import native
from bnn_lightning.zoo import packed_file
from tests.deploy.emulated import CACHE
from tests.deploy.test_native import CLASSES, SHAPE, file_of, linear, plan
from tests.packaging.binaries import only_libc_of_linux, only_libc_of_mac, only_libc_of_windows

Run = Callable[..., str]
NAMES = ("one", "two", "three", "four", "five")
PREPARATION = Preparation(size=SHAPE[1:], channels=3, resize=(5, 6), interpolation="bicubic")
needs_zig = pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="Needs ziglang.")


@pytest.fixture(scope="module")
def wheels(root: Path) -> dict[str, Any]:
    return runpy.run_path(str(root / "runtime" / "wheels.py"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with names and preparation, of RGB images."""
    from bnn_lightning.deploy.planner.plan import Address, Region

    values = np.random.default_rng(0).standard_normal((36 * 16 + 16,)).astype(np.float32)
    fields = {"factors": 36, "x_row": 36, "bias": Address(Region.CONSTANTS, 36 * 64)}
    made = plan(linear(**fields), in_shape=(3, *SHAPE[1:]), constants=values.tobytes())
    path = tmp_path_factory.mktemp("model") / "model.bnn"
    path.write_bytes(file_of(made, class_names=NAMES, preparation=PREPARATION))
    return path


@pytest.fixture(scope="module")
def installed(wheels: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """An environment with the wheel, numpy and Pillow, in which nothing imports torch or bnn-lightning."""
    if not native.LIBRARY.exists():
        pytest.skip("needs the compiled library")
    folder = tmp_path_factory.mktemp("runtime")
    wheel = wheels["write_wheel"](folder, "any", native.LIBRARY)
    assert wheel.stat().st_size < 600_000
    return environment(folder, wheel, run)


def environment(folder: Path, wheel: Path, run: Run) -> Path:
    """Make an environment with a wheel, numpy and Pillow, and nothing else."""
    folder.mkdir(exist_ok=True)
    run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], cwd=folder)
    python = folder / "venv" / "bin" / "python"
    run([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel], cwd=folder)
    packages = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], cwd=folder).strip())
    for name in ("numpy", "numpy.libs", "PIL", "pillow.libs"):
        found = Path(np.__file__).parents[1] / name
        if found.exists():
            (packages / name).symlink_to(found)
    return folder / "venv"


def test_the_one_of_make_install_runs(model: Path) -> None:
    bnn_runtime = pytest.importorskip("bnn_runtime", reason="`make install` installs ./runtime.")
    images = np.random.default_rng(0).random((2, 3, *SHAPE[1:]), np.float32)
    assert np.array_equal(bnn_runtime.load(model)(images), native.Network(model)(images))


def test_it_runs_without_torch(installed: Path, model: Path, tmp_path: Path, run: Run) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 3, *SHAPE[1:]), np.uint8)
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys, numpy as np, bnn_runtime; network = bnn_runtime.load(sys.argv[1]);"
        "np.save('logits.npy', network(np.load('images.npy')));"
        "print(bnn_runtime.__file__, *network.facts.class_names, {'torch', 'bnn_lightning'} & {*sys.modules})"
    )
    printed = run([installed / "bin" / "python", "-c", code, model], cwd=tmp_path).split()
    assert printed[0].startswith(str(installed))
    assert printed[1:] == [*NAMES, "set()"]
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), native.load(model)(images))


@pytest.mark.parametrize("suffix", ["ppm", "png", "pgm"])
def test_it_classifies_pictures(installed: Path, model: Path, tmp_path: Path, run: Run, suffix: str) -> None:
    shape = (9, 7) if suffix == "pgm" else (9, 7, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"picture.{suffix}")
    command = (
        [installed / "bin" / "python", "-m", "bnn_runtime"] if suffix == "png" else [installed / "bin/bnn-runtime"]
    )
    command += ["classify", model, f"picture.{suffix}", "--top", str(CLASSES)]
    printed = re.findall(r"([\d.]+) %  (\w+)", run(command, cwd=tmp_path))
    logits = native.load(model)(prepare_picture(pixels, PREPARATION).transpose(2, 0, 1)[None])[0].astype(np.float64)
    wanted = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert [name for _, name in printed] == [NAMES[i] for i in np.argsort(-logits)]
    np.testing.assert_allclose([float(share) for share, _ in printed], 100 * np.sort(wanted)[::-1], atol=0.006)


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(side: int, rows: bytes) -> bytes:
    """Return a gray PNG file, whose rows may be fewer than it says."""
    header = struct.pack(">2I5B", side, side, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


PICTURES = {
    "other": b"no picture",
    "text": b"no picture",
    "huge": png(20_000, b""),
    "cut": png(64, bytes(65 * 20))[:-30],
    "rare": struct.pack("<18B", 0, 0, 3, *[0] * 9, 2, 0, 2, 0, 8, 0) + bytes(4),  # a format beyond those of bnn predict
}


@pytest.mark.parametrize("picture", ["none.ppm", "none.png", "text.png", "text.ppm", "huge.png", "cut.png", "rare.tga"])
def test_pictures_that_are_none_are_one_error(installed: Path, model: Path, tmp_path: Path, picture: str) -> None:
    name = picture.replace("none", "other")
    (tmp_path / name).write_bytes(PICTURES[Path(name).stem])
    command = [installed / "bin" / "bnn-runtime", "classify", model, picture]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.fullmatch(rf"error: .*{picture}.*\n", done.stderr)


def test_formats_are_those_of_prediction(wheels: dict[str, Any]) -> None:
    text = (wheels["HERE"] / "bnn_runtime" / "cli.py").read_text(encoding="utf-8")
    assert f"_FORMATS = {FORMATS}".replace("'", '"') in text


def test_versions_are_one(installed: Path, tmp_path: Path, run: Run) -> None:
    native.library().bnn_library_version.restype = ctypes.c_char_p
    assert native.library().bnn_library_version().decode() == bnn_lightning.__version__
    printed = run([installed / "bin" / "python", "-c", "print(__import__('bnn_runtime').__version__)"], cwd=tmp_path)
    printed += run([installed / "bin" / "bnn-runtime", "--version"], cwd=tmp_path)
    assert printed.split() == [bnn_lightning.__version__, "bnn-runtime", bnn_lightning.__version__]


def test_every_target_has_a_wheel(wheels: dict[str, Any], root: Path) -> None:
    builder = runpy.run_path(str(root / "setup.py"))
    assert {target.machine for target in wheels["TARGETS"]} <= set(builder["TARGETS"])
    tags = [tag for target in wheels["TARGETS"] for tag in target.tags.split(".")]
    for wanted in ("manylinux", "musllinux", "macosx", "win_amd64", "aarch64", "armv7l"):
        assert any(wanted in tag for tag in tags)


def accepted(wheel: Path, tag: str, out: Path, run: Run) -> None:
    """Hold a wheel to what pip takes on a platform."""
    options = ["--no-index", "--no-deps", "--only-binary=:all:", "--platform", tag, "--find-links", wheel.parent]
    run([sys.executable, "-m", "pip", "download", "--quiet", *options, "--dest", out, "bnn-runtime"], cwd=wheel.parent)
    assert [file.name for file in out.iterdir()] == [wheel.name]


@needs_zig
@pytest.mark.slow
def test_wheels_of_all_targets(wheels: dict[str, Any], tmp_path: Path, run: Run) -> None:
    for target in wheels["TARGETS"]:
        wheel = wheels["build_target"](tmp_path / "dist", target, str(CACHE))
        assert wheel.stat().st_size < 600_000
        with zipfile.ZipFile(wheel) as archive:
            (library,) = (name for name in archive.namelist() if "/_lib/" in name)
            data = archive.read(library)
        for tag in target.tags.split("."):
            accepted(wheel, tag, tmp_path / tag, run)
        if target.system == "Linux":
            assert target.machine != "armv7l" or b"fxstat64" in data  # files beyond 2 GB
            only_libc_of_linux(data, tmp_path / "library", newest=(2, 17) if "gnu" in target.zig else None)
        elif target.system == "Darwin":
            only_libc_of_mac(data, oldest=(11, 0))
        else:
            only_libc_of_windows(data)


@needs_zig
@pytest.mark.slow
@pytest.mark.skipif((platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="the wheel is another one")
def test_the_wheel_of_this_machine_runs(wheels: dict[str, Any], data_root: Path, tmp_path: Path, run: Run) -> None:
    wheel = wheels["build_target"](tmp_path, wheels["TARGETS"][0], str(CACHE))
    made = environment(tmp_path / "fresh", wheel, run)
    digits = np.frombuffer((data_root / "MNIST/raw/t10k-images-idx3-ubyte").read_bytes(), np.uint8, offset=16)
    labels = np.frombuffer((data_root / "MNIST/raw/t10k-labels-idx1-ubyte").read_bytes(), np.uint8, offset=8)
    for number in range(10):
        Image.fromarray(digits.reshape(-1, 28, 28)[number]).save(tmp_path / f"{number}.png")
    model, files = packed_file("zoo:mnist_mlp"), [f"{number}.png" for number in range(10)]
    printed = run([made / "bin" / "bnn-runtime", "classify", model, *files, "--top", "1"], cwd=tmp_path)
    assert re.findall(r"% +(\d)", printed) == [str(label) for label in labels[:10]]
