"""The files and settings at the top of the checkout agree with each other and with what is promised."""

import ast
import configparser
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

PROMISED = (
    ".ci/run",
    ".gitignore",
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "docs/internals/architecture.md",
    "docs/results.md",
    "pyproject.toml",
    "setup.cfg",
    "setup.py",
    "train.py",
)
# Where a path names one person's or one machine's folder. Spelt in parts, so that this file does not find itself.
MACHINE = re.compile("|".join((r"/ho" r"me/\w+", r"/Us" r"ers/\w+", r"/ro" r"ot/", r"/wo" r"rk/", r"C:\\\\Us" r"ers")))

WITH_LIGHTNING = {"cli", "tasks", "callbacks", "data", "loggers", "metrics", "workflows"}


@pytest.fixture(scope="module")
def settings(root: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(root / "setup.cfg", encoding="utf-8")
    return parser


def listed(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def tracked(root: Path) -> list[Path]:
    if not (root / ".git").exists():
        pytest.skip("not a git checkout")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True).stdout
    return [root / name for name in names.split("\0") if name and (root / name).is_file()]


@pytest.mark.parametrize("name", PROMISED)
def test_promised_file_exists(root: Path, name: str) -> None:
    assert (root / name).is_file()


@pytest.mark.parametrize("status", [0, 1])
def test_gate_runs_make_test_in_a_new_environment(status: int, root: Path, tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(root / ".ci" / "run", tmp_path / ".ci")
    (tmp_path / ".ci-venv").mkdir()
    (tmp_path / "Makefile").write_text(
        f"test:\n\t@test ! -e $(VENV) && mkdir $(VENV) && echo tested && exit {status}\n"
    )
    done = subprocess.run([tmp_path / ".ci" / "run"], cwd=tmp_path.parent, capture_output=True, text=True)
    assert "tested" in done.stdout
    assert (done.returncode == 0) == (status == 0)
    assert not (tmp_path / ".ci-venv").exists()


def test_lint_needs_no_newer_make_than_that_of_macos(root: Path) -> None:
    """The flag came with GNU make 4.0, which names it among its features; macOS has 3.81."""
    command = ["make", "--dry-run", "lint", ".FEATURES=else-if"]
    printed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    assert "lint-types" in printed
    assert "--output-sync" not in printed


def test_python_versions_agree(settings: configparser.ConfigParser, root: Path) -> None:
    assert settings["options"]["python_requires"] == ">=3.11,<3.14"
    prefix = "Programming Language :: Python :: 3."
    named = [line for line in listed(settings["metadata"]["classifiers"]) if line.startswith(prefix)]
    assert [line.removeprefix(prefix) for line in named] == ["11", "12", "13"]
    assert settings["mypy"]["python_version"] == "3.11"
    assert 'target-version = "py311"' in (root / "pyproject.toml").read_text()
    assert "(3, 11) <= sys.version_info < (3, 14)" in (root / "tools" / "create_venv.sh").read_text()


def test_every_requirement_has_a_floor(settings: configparser.ConfigParser) -> None:
    extras = [line for extra in settings["options.extras_require"].values() for line in listed(extra)]
    for requirement in listed(settings["options"]["install_requires"]) + extras:
        assert ">=" in requirement or requirement.startswith("bnn-lightning["), requirement


def test_every_import_is_declared(settings: configparser.ConfigParser, root: Path) -> None:
    extras = [line for extra in settings["options.extras_require"].values() for line in listed(extra)]
    requirements = listed(settings["options"]["install_requires"]) + extras
    declared = {re.split(r"[<>=\[]", requirement)[0] for requirement in requirements}
    imported = set()
    for file in (root / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(str(node.module).partition(".")[0])
    distributions = {"PIL": "pillow", "hydra": "hydra-core", "lightning_fabric": "pytorch-lightning", "yaml": "pyyaml"}
    needed = {distributions.get(name, name.replace("_", "-")) for name in imported - sys.stdlib_module_names}
    assert needed - {"bnn-lightning"} <= declared


def test_version_agrees(settings: configparser.ConfigParser, root: Path) -> None:
    import bnn_lightning

    assert settings["metadata"]["version"] == "attr: bnn_lightning.__version__"
    assert f"version: {bnn_lightning.__version__}\n" in (root / "CITATION.cff").read_text()
    assert version("bnn-lightning") == bnn_lightning.__version__


def test_licence_is_apache(root: Path) -> None:
    text = (root / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_no_machine_path_is_committed(root: Path) -> None:
    found = []
    for file in tracked(root):
        if file.suffix in {".npz", ".png", ".gz", ".h5", ".bnn", ".safetensors", ".ckpt"}:
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            if MACHINE.search(line):
                found.append(f"{file.relative_to(root)}:{number}: {line.strip()}")
    assert not found, "\n".join(found)


def test_no_committed_path_is_hard_to_type(root: Path) -> None:
    assert not [file for file in tracked(root) if re.search(r"[=,( ]", str(file.relative_to(root)))]


def packages(root: Path) -> set[str]:
    return {folder.name for folder in (root / "src" / "bnn_lightning").iterdir() if (folder / "__init__.py").exists()}


def test_contracts_name_every_package(settings: configparser.ConfigParser, root: Path) -> None:
    def sources(contract: str) -> set[str]:
        names = listed(settings[f"importlinter:contract:{contract}"]["source_modules"])
        return {name.removeprefix("bnn_lightning.") for name in names}

    assert packages(root) <= set(re.findall(r"\w+", settings["importlinter:contract:layers"]["layers"]))
    assert packages(root) - {"cli"} <= sources("hydra")
    assert packages(root) - WITH_LIGHTNING <= sources("core")


def test_core_runs_without_lightning_and_hydra(root: Path, run: Callable[..., str]) -> None:
    source = root / "src"
    core = [source / "bnn_lightning" / package for package in packages(root) - WITH_LIGHTNING]
    files = [file for folder in core for file in folder.glob("*.py")]
    modules = sorted(".".join(file.relative_to(source).with_suffix("").parts) for file in files)
    assert "bnn_lightning.distill.base" in modules
    blocked = "sys.modules.update(dict.fromkeys(('pytorch_lightning', 'lightning_fabric', 'hydra', 'omegaconf')))"
    code = f"import importlib, sys; {blocked}; [importlib.import_module(name) for name in {modules}]"
    run([sys.executable, "-c", code], cwd=root.parent)


def test_train_script_is_thin(root: Path) -> None:
    module = ast.parse((root / "train.py").read_text())
    assert len(module.body) == 2
    assert "from bnn_lightning.cli.train import main" in (root / "train.py").read_text()


def test_make_help_names_every_target(root: Path, run: Callable[..., str]) -> None:
    output = run(["make", "help"], cwd=root)
    for target in ("install", "train", "test", "test-slow", "lint", "bench-train", "bench-data", "docs", "clean"):
        assert re.search(rf"make {target}\s+\S", output), target


def test_make_names_the_fix_when_python_does_not_fit(root: Path, tmp_path: Path) -> None:
    script = root / "tools" / "create_venv.sh"
    done = subprocess.run(["sh", script, tmp_path / "venv", "no-such-python"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "3.11, 3.12 or 3.13" in done.stderr
    assert "make PYTHON=" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_files_and_functions_are_short(root: Path) -> None:
    long = []
    for file in sorted((root / "src").rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        if len(text.splitlines()) >= 400:
            long.append(f"{file.relative_to(root)}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                documented = ast.get_docstring(node) is not None and len(node.body) > 1
                lines = (node.end_lineno or 0) - node.body[1 if documented else 0].lineno + 1
                if lines >= 40:
                    long.append(f"{file.relative_to(root)}: {node.name} has {lines} lines")
    assert not long, "\n".join(long)
