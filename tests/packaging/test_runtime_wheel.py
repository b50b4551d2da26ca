"""The distribution bnn-runtime: its wheel runs without torch and bnn-lightning; all targets are built."""

import importlib.util
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bnn_lightning.data.image_io import prepare_picture
from bnn_lightning.data.preparation import Preparation
from bnn_lightning.deploy.runtime import native
from tests.deploy.test_native import CLASSES, SHAPE, file_of, linear, plan

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
    run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], cwd=folder)
    python = folder / "venv" / "bin" / "python"
    run([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel], cwd=folder)
    packages = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], cwd=folder).strip())
    for name in ("numpy", "numpy.libs", "PIL", "pillow.libs"):
        found = Path(np.__file__).parents[1] / name
        if found.exists():
            (packages / name).symlink_to(found)
    return folder / "venv"


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
    command = [installed / "bin" / "bnn-runtime", "classify", model, f"picture.{suffix}", "--top", str(CLASSES)]
    printed = re.findall(r"([\d.]+) %  (\w+)", run(command, cwd=tmp_path))
    logits = native.load(model)(prepare_picture(pixels, PREPARATION).transpose(2, 0, 1)[None])[0].astype(np.float64)
    wanted = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert [name for _, name in printed] == [NAMES[i] for i in np.argsort(-logits)]
    np.testing.assert_allclose([float(share) for share, _ in printed], 100 * np.sort(wanted)[::-1], atol=0.006)


@pytest.mark.parametrize("picture", ["none.ppm", "none.png", "text.png", "text.ppm"])
def test_pictures_that_are_none_are_one_error(installed: Path, model: Path, tmp_path: Path, picture: str) -> None:
    (tmp_path / picture.replace("none", "other")).write_text("no picture")
    command = [installed / "bin" / "bnn-runtime", "classify", model, picture]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.fullmatch(rf"error: .*{picture}.*\n", done.stderr)


def test_every_target_has_a_wheel(wheels: dict[str, Any], root: Path) -> None:
    builder = runpy.run_path(str(root / "setup.py"))
    assert {target.machine for target in wheels["TARGETS"]} <= set(builder["TARGETS"])
    tags = [tag for target in wheels["TARGETS"] for tag in target.tags.split(".")]
    for wanted in ("manylinux", "musllinux", "macosx", "win_amd64", "aarch64", "armv7l"):
        assert any(wanted in tag for tag in tags)


@needs_zig
@pytest.mark.slow
def test_wheels_of_all_targets(wheels: dict[str, Any], tmp_path: Path, run: Run) -> None:
    (tmp_path / "cache").mkdir()
    for target in wheels["TARGETS"]:
        wheel = wheels["build_target"](tmp_path / "dist", target, str(tmp_path / "cache"))
        assert wheel.stat().st_size < 600_000
        with zipfile.ZipFile(wheel) as archive:
            (library,) = (name for name in archive.namelist() if "/_lib/" in name)
            data = archive.read(library)
        for tag in target.tags.split("."):
            options = [
                "--no-index",
                "--no-deps",
                "--only-binary=:all:",
                "--platform",
                tag,
                "--find-links",
                wheel.parent,
            ]
            out = ["--dest", tmp_path / tag, "bnn-runtime"]
            run([sys.executable, "-m", "pip", "download", "--quiet", *options, *out], cwd=tmp_path)
            assert [file.name for file in (tmp_path / tag).iterdir()] == [wheel.name]
        if target.system == "Linux":
            needs_only_libc(data, tmp_path / "library", newest=(2, 17) if "gnu" in target.zig else None)


def needs_only_libc(data: bytes, path: Path, newest: tuple[int, int] | None) -> None:
    """Hold a library to libc, libm and pthread, and to symbols of glibc that are no newer than its tag."""
    if shutil.which("readelf") is None:
        pytest.skip("needs readelf")
    path.write_bytes(data)
    printed = subprocess.run(["readelf", "-dW", "--version-info", path], check=True, capture_output=True, text=True)
    needed = set(re.findall(r"\(NEEDED\).*\[(.*?)\]", printed.stdout))
    plain = re.compile(r"(libc|libm|libpthread|ld-linux[-\w]*|libc\.musl-\w+|libdl)\.so(\.\d+)?")
    assert needed
    assert all(plain.fullmatch(name) for name in needed), needed
    versions = [tuple(map(int, found)) for found in re.findall(r"GLIBC_(\d+)\.(\d+)", printed.stdout)]
    assert newest is None or max(versions) <= newest
