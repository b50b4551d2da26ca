"""The pages of the documentation hang together: links, navigation, names of files."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bnn_lightning.workflows import old_names
from tests.packaging.pages import DOCS, ROOT, anchors, links, sources, texts
from tools.argument_docs import meanings
from tools.site_pages import CONF, companions, configuration, expand, explained, python, rows, written

TEXTS = texts()
PACKAGE = ROOT / "src" / "bnn_lightning"
SOURCES = [path.relative_to(ROOT).as_posix() for path in sources()]


@pytest.mark.parametrize("page", [*SOURCES, "CHANGELOG.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = TEXTS.get(page) or (ROOT / page).read_text(encoding="utf-8")
    for place, anchor in links(text):
        target = os.path.normpath(os.path.join(os.path.dirname(page), place)) if place else page
        assert target in TEXTS or (ROOT / target).is_file() or not page.startswith("docs/"), place
        assert target in TEXTS or (ROOT / target).exists(), place
        if anchor and target in TEXTS:
            assert anchor in anchors(TEXTS[target]), f"{place}#{anchor}"


@pytest.mark.parametrize("page", SOURCES)
def test_files_that_are_named_exist(page: str) -> None:
    for name in re.findall(r"(?<![\w./])(?:tests|conf|docs|src|tools|benchmarks|notebooks)/[\w./-]+\.\w+", TEXTS[page]):
        assert name in TEXTS or (ROOT / name).exists() or f'title="{name}"' in TEXTS[page], name
    packages = "|".join(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
    for name in re.findall(rf"`((?:{packages})/[\w./]+\.\w+)`", TEXTS[page]):
        assert (PACKAGE / name).exists() or f'title="{name}"' in TEXTS[page], name


@pytest.mark.parametrize("page", [page for page in SOURCES if page != "docs/results.md"])  # it names commits
def test_pages_have_no_old_names(page: str) -> None:
    keys, options = ("|".join(map(re.escape, names)) for names in (old_names.KEYS, old_names.OPTIONS))
    assert re.findall(rf"(?<![\w.@])(?:(?:{keys})(?:\.\w+)*=|(?:{options})(?![\w.]))", TEXTS[page]) == []


def settings() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    return found


def leaves(navigation: Any) -> Iterator[str]:
    if isinstance(navigation, str):
        yield navigation
    for entry in navigation.values() if isinstance(navigation, dict) else navigation:
        if not isinstance(navigation, str):
            yield from leaves(entry)


def test_navigation_lists_every_page_once() -> None:
    listed = list(leaves(expand(settings()["nav"], written())))
    there = {page.removeprefix("docs/") for page in TEXTS if page.startswith("docs/")}
    assert sorted(listed) == sorted(there)


def test_site_needs_no_network() -> None:
    site = settings()
    assert site["strict"] is True
    assert site["theme"]["font"] is False
    assert "extra_javascript" not in site
    assert not [line for text in TEXTS.values() for line in text.splitlines() if line.startswith("```mermaid")]


def test_every_option_of_every_group_is_in_the_reference() -> None:
    found = configuration()
    for file in CONF.glob("*/*.yaml"):
        if not file.name.startswith("_") and file.parent.name != "visualize":
            assert f"## {file.parent.name}={file.stem}\n" in found[file.parent.name], file


def test_every_key_of_every_option_is_explained() -> None:
    files = [file for file in CONF.rglob("*.yaml") if not file.name.startswith("_") and file.parent.name != "hydra"]
    bare = [
        f"{file.relative_to(CONF)}: {row.key}"
        for file in files
        for row in explained(file)
        if not (row.comment or row.key.startswith("hydra.") or row.key.endswith(("_target_", "_partial_")))
    ]
    assert len(files) > 100
    assert not bare


def test_meanings_come_from_docstrings() -> None:
    network = meanings("bnn_lightning.models.create_backbone", "mlp")
    assert network["num_classes"] == "Width of the logits."
    assert network["std"] == network["mean"]
    assert meanings("torch.optim.SGD")["momentum"].startswith("momentum factor")
    assert "loop" in meanings("pytorch_lightning.Trainer")["check_val_every_n_epoch"]


def test_settings_and_results_of_workflows_are_in_the_reference() -> None:
    place = "bnn_lightning.workflows"
    assert companions("workflows.evaluation", "evaluate") == [
        f"{place}.settings.EvaluateSettings",
        f"{place}.evaluation.Score",
    ]
    assert companions("workflows.checkpoint", "load_task") == []
    assert f"::: {place}.settings.EvaluateSettings\n" in python()["workflows"]


def test_keys_of_extended_files_are_in_the_reference(tmp_path: Path) -> None:
    (tmp_path / "_base.yaml").write_text("a: 1    # first\nb: [x, y]\nc:\n  d: null\n")
    (tmp_path / "one.yaml").write_text("defaults:\n  - _base\n  - _self_\n\na: 2\nc:\n  e: x # last\n")
    assert rows(tmp_path / "one.yaml") == (
        ("a", "2", "first"),
        ("b", "[x, y]", ""),
        ("c.d", "null", ""),
        ("c.e", "x", "last"),
    )


def test_pages_are_below_400_lines() -> None:
    assert [path for path in DOCS.rglob("*.md") if len(path.read_text(encoding="utf-8").splitlines()) > 400] == []
