"""Modules import each other without circles, and one public name stands for one thing."""

import ast
import importlib
import pkgutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import bnn_lightning

ROOT = Path(bnn_lightning.__file__).parent
TESTS = Path(__file__).parents[1]
FOLDERS = [ROOT, TESTS, TESTS.parent / "benchmarks", TESTS.parent / "tools"]
MODULES = {
    ".".join(["bnn_lightning", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def lazy_exports(name: str) -> dict[str, str]:
    """Return the names that a lazy package exports, and the modules that define them."""
    calls = [node for node in ast.walk(tree(name)) if isinstance(node, ast.Call)]
    attached = next((c for c in calls if isinstance(c.func, ast.Name) and c.func.id == "attach"), None)
    if attached is None:
        return {}
    table: dict[str, Any] = eval(compile(ast.Expression(attached.args[1]), name, "eval"), {})
    return {exported: f"{name}.{module}" for module, names in table.items() for exported in names}


EXPORTS = {name: lazy_exports(name) for name, path in MODULES.items() if path.name == "__init__.py"}


def imported(name: str) -> Iterator[str]:
    """Yield the modules of the package that a module imports: at the top, late, and for type checkers."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                own = f"{node.module}.{alias.name}"
                yield own if own in MODULES else EXPORTS.get(node.module, {}).get(alias.name, node.module)


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {name: {other for other in imported(name) if other != name} for name in MODULES}
    TopologicalSorter(graph).prepare()  # a circle raises, and is named


def test_no_two_public_classes_share_a_name() -> None:
    places = defaultdict(list)
    for name in MODULES:
        for node in tree(name).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(name)
    assert not {name: modules for name, modules in places.items() if len(modules) > 1}


def test_no_file_defines_a_name_twice() -> None:
    twice = []
    for path in [path for folder in FOLDERS for path in sorted(folder.rglob("*.py"))]:
        definitions = [
            node.name
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.decorator_list
        ]
        twice += [f"{path}: {name}" for name, number in Counter(definitions).items() if number > 1]
    assert not twice


def test_the_command_line_is_small() -> None:
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "cli").glob("*.py")) <= 2200


def test_no_exported_function_is_shadowed_by_a_module() -> None:
    for name, exports in EXPORTS.items():
        package = importlib.import_module(name)
        modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
        assert modules.isdisjoint(exports), name
