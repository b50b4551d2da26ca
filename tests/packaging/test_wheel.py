"""The built packages carry everything, and run where the checkout is out of sight."""

import importlib.util
import re
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., str]
BUILD = "import sys, setuptools.build_meta as backend; getattr(backend, 'build_' + sys.argv[1])(sys.argv[2])"


def build(kind: str, source: Path, out: Path, run: Run) -> Path:
    """Build as a front end does, with the setuptools at hand instead of a downloaded one."""
    run([sys.executable, "-c", BUILD, kind, out], cwd=source)
    (built,) = out.iterdir()
    return built


def environment(folder: Path, wheel: Path, run: Run) -> Path:
    """Make an environment with the wheel that sees our dependencies, but not our editable install."""
    run([sys.executable, "-m", "venv", "--without-pip", folder], cwd=folder.parent)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    run([*pip, "--no-deps", "--no-index", wheel], cwd=folder.parent)
    # A folder that a .pth file names joins sys.path, but the .pth files within it (editable installs) are not read.
    packages = run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], cwd=folder).strip()
    seen = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(packages, "dependencies.pth").write_text("\n".join(sorted(seen)) + "\n")
    return folder


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """The wheel of the sdist of the checkout: what either lacks is missed here."""
    sdist = build("sdist", checkout, tmp_path_factory.mktemp("sdist"), run)
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (source,) = unpacked.iterdir()
    return build("wheel", source, tmp_path_factory.mktemp("wheel"), run)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    return environment(tmp_path_factory.mktemp("installed") / "venv", wheel, run)


def test_wheel_holds_every_module_and_config(wheel: Path, root: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    source = root / "src"
    modules = {str(file.relative_to(source)) for file in source.rglob("*.py")}
    configs = {f"bnn_lightning/conf/{file.relative_to(root / 'conf')}" for file in (root / "conf").rglob("*.yaml")}
    assert modules <= held
    assert configs
    assert configs <= held
    assert "bnn_lightning/py.typed" in held


def test_wheel_holds_the_embedded_data_and_no_tests(wheel: Path, root: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    data = root / "src" / "bnn_lightning" / "data"
    embedded = {
        f"bnn_lightning/data/{file.relative_to(data)}" for pattern in ("*.npz", "*.txt") for file in data.glob(pattern)
    }
    assert embedded
    assert embedded <= held
    assert all(name.startswith(("bnn_lightning/", "bnn_lightning-")) for name in held)
    assert any(name.endswith("licenses/LICENSE") for name in held)


def test_wheel_holds_the_zoo(wheel: Path, root: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    files = {f"bnn_lightning/zoo/trained/{path.name}" for path in (root / "src/bnn_lightning/zoo/trained").iterdir()}
    assert {Path(file).suffix for file in files} >= {".bnn", ".json"}
    assert files <= held


def test_installed_zoo_scores_as_its_receipt_says(installed: Path, tmp_path: Path, run: Run) -> None:
    out = run(["bnn", "evaluate", "packed=zoo:digits_mlp"], cwd=tmp_path, path=installed / "bin")
    assert re.search(r"top-1:\s+99\.17 %", out)


def test_wheel_is_of_a_platform_and_of_any_python(wheel: Path) -> None:
    assert re.search(r"-py3-none-(?!any)\w+\.whl$", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        kernels = [name for name in archive.namelist() if name.startswith("bnn_lightning/deploy/runtime/_lib/")]
        pages = [name for name in archive.namelist() if name.startswith("bnn_lightning/deploy/export/web/")]
    # Built without isolation, with the compiler where it is installed; a wheel without kernels is a good one.
    has_zig = importlib.util.find_spec("ziglang") is not None
    assert bool(kernels) == has_zig
    assert {Path(name).name for name in pages} == {"index.html", *(["bnn.wasm"] if has_zig else [])}


def test_installed_environment_does_not_see_the_checkout(installed: Path, root: Path, run: Run) -> None:
    imports = "import sys, torch, bnn_lightning as package, bnn_lightning.conf as conf"
    code = f"{imports}; print(package.__file__, conf.__file__, *sys.path, *sys.meta_path)"
    seen = run([installed / "bin" / "python", "-c", code], cwd=installed).split()
    assert seen[0].startswith(str(installed))
    assert seen[1].startswith(str(installed))
    assert not any(path.startswith((str(root / "src"), str(root / "conf"))) or path == str(root) for path in seen)
    assert not any("__editable__" in part.lower() for part in seen)


@pytest.mark.slow
def test_wheel_trains_and_evaluates_in_another_folder(installed: Path, tmp_path: Path, run: Run) -> None:
    command = ["bnn", "train", "model=mlp", "model.width=64", "trainer.max_epochs=1"]
    trained = run(command, cwd=tmp_path, path=installed / "bin")
    checkpoints = list(tmp_path.rglob("last.ckpt"))
    assert len(checkpoints) == 1, trained
    evaluated = run(["bnn", "evaluate", f"ckpt={checkpoints[0]}"], cwd=tmp_path, path=installed / "bin")
    before, after = (re.findall(r"top-1\W+([\d.]+) %", output)[-1] for output in (trained, evaluated))
    assert before == after


@pytest.mark.slow
def test_editable_install_carries_the_configs(checkout: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "wheel").mkdir()
    editable = build("editable", checkout, tmp_path / "wheel", run)
    folder = environment(tmp_path / "venv", editable, run)
    code = "import importlib.resources as r; print(r.files('bnn_lightning.conf').joinpath('train.yaml'))"
    found = run([folder / "bin" / "python", "-c", code], cwd=tmp_path).strip()
    assert found == str(checkout / "conf" / "train.yaml")
    assert Path(found).is_file()
    run(["bnn", "--help"], cwd=tmp_path, path=folder / "bin")
