"""Every notebook runs from top to bottom, at its fast setting, away from the checkout."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs the extra `notebooks`")
nbclient = pytest.importorskip("nbclient", reason="needs the extra `notebooks`")
pytest.importorskip("ipykernel", reason="needs the extra `notebooks`")
manager = pytest.importorskip("jupyter_client.manager", reason="needs the extra `notebooks`")
pytest.importorskip("matplotlib", reason="needs the extra `notebooks`")

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_there_are_five_and_the_readme_names_them() -> None:
    assert [notebook.name[:2] for notebook in NOTEBOOKS] == ["01", "02", "03", "04", "05"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"notebooks/{notebook.name}" in readme for notebook in NOTEBOOKS)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_without_outputs_and_with_links_that_lead_somewhere(notebook: Path) -> None:
    content = nbformat.read(notebook, as_version=4)
    nbformat.validate(content)
    assert content.cells[0].cell_type == "markdown"
    for cell in content.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
        for target in re.findall(r"\]\(([^)#:]+)\)", cell.source if cell.cell_type == "markdown" else ""):
            assert (notebook.parent / target).exists(), target
        for name in re.findall(r"`((?:docs|conf|src)/[\w./-]+\.\w+)`", cell.source):
            assert (ROOT / name).exists(), name


@pytest.fixture(scope="module")
def kernel() -> Iterator[Any]:
    """One process for all notebooks, which spares each the imports."""
    dropped = ("BNN_RUNS", "BNN_RUN_ID", "HYDRA_FULL_ERROR", "PL_GLOBAL_SEED")
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    kernel = manager.KernelManager(kernel_name="python3")
    kernel.start_kernel(env=environment | {"BNN_NOTEBOOKS": "fast"})
    yield kernel
    kernel.shutdown_kernel(now=True)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(notebook: Path, tmp_path: Path, kernel: Any) -> None:
    content = nbformat.read(notebook, as_version=4)
    content.cells.insert(0, nbformat.v4.new_code_cell(f"%reset -f\n%cd -q {tmp_path}"))
    nbclient.NotebookClient(content, km=kernel, timeout=300).execute()
    outputs = [output for cell in content.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
