"""Write the reference pages of the documentation from the configuration and the packages: a hook of MkDocs.

`mkdocs.yml` names this file. A folder in its navigation that ends with `/*` stands for the pages written there.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tools.argument_docs import meanings

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
SOURCE = ROOT / "src" / "bnn_lightning"
# Packages whose exports are the library's programming interface, and what each is for.
PACKAGES = {
    "functional": "Functions of tensors: the sign and its gradients, scales, statistics of signs.",
    "binarizers": "Modules that turn activations and weights into -1 and +1, or into a few integers.",
    "layers": "Layers with torch's signatures: binary convolutions and linear layers, activations, gates.",
    "models": "Backbones, their registry, and the import of published checkpoints.",
    "data": "Lightning data modules, preparation of images, augmentation.",
    "losses": "Loss functions.",
    "distill": "Distillers, frozen teachers, ensembles.",
    "optim": "Parameter groups, learning-rate schedulers, Bop.",
    "tasks": "Lightning modules.",
    "callbacks": "Lightning callbacks.",
    "metrics": "Flip rates, operations, sizes, energy.",
    "analysis": "Numbers from networks: loss landscapes, sharpness, sign statistics.",
    "figures": "Figures from tables and callables.",
    "deploy": "Packing, packed files, and export to ONNX, C and the browser.",
    "workflows": "Settings and results of the [functions at the top level](index.md), one pair a command.",
    "zoo": "Trained networks that come with the package.",
}


TRAINER = "pytorch_lightning.Trainer"
# Keys of the section `published` of a recipe.
PUBLISHED = {
    "top1": "Top-1 accuracy of the paper, in percent.",
    "note": "Conditions of the published accuracy.",
    "next": "Recipe of the next stage.",
    "needs": "What the stage starts from.",
    "model.width": "Width of the published network.",
}


class Row(NamedTuple):
    """A key of a configuration file."""

    key: str
    default: str
    comment: str


@cache
def rows(path: Path) -> tuple[Row, ...]:
    """Return the keys of a configuration file, with those of the files that it extends.

    Args:
        path: A YAML file of the configuration tree.
    """
    text = path.read_text(encoding="utf-8")
    lines, found = text.splitlines(), {}
    for entry in (yaml.safe_load(text) or {}).get("defaults", []):
        if isinstance(entry, str) and "/" not in entry and (path.parent / f"{entry}.yaml").is_file():
            found |= {row.key: row for row in rows(path.parent / f"{entry}.yaml")}
    node = yaml.compose(text)
    for key, value, line in _leaves(node, "") if isinstance(node, yaml.MappingNode) else ():
        if key == "defaults" or key.startswith("defaults."):
            continue
        comment = re.search(r"\s#\s*(.*)$", lines[line])
        inherited = found[key].comment if key in found else ""
        found[key] = Row(key, value, comment[1] if comment else inherited)
    return tuple(found.values())


@cache
def explained(path: Path) -> list[Row]:
    """Return the keys of a configuration file, each with its comment or one from elsewhere.

    What has no comment is explained by the docstring of what the file builds, by another file of its group, or by the
    group that the key belongs to.

    Args:
        path: A YAML file of the configuration tree.
    """
    found = rows(path)
    values = {row.key: row.default for row in found}
    return [row if row.comment else row._replace(comment=_meaning(path, row.key, values)) for row in found]


def _meaning(path: Path, key: str, values: Mapping[str, str]) -> str:
    node, _, argument = key.rpartition(".")
    prefix = f"{node}." if node else ""
    if target := values.get(f"{prefix}_target_"):
        known = meanings(target, values.get(f"{prefix}name"))
        if argument in known:
            return known[argument]
    if key.startswith("published."):
        return PUBLISHED.get(key.removeprefix("published."), "Option that the recipe chooses in this group.")
    if path.parent != CONF and (comment := _comment(path.parent, key)):
        return comment
    if (CONF / key).is_dir():
        return f"Option of the group `{key}`, with its keys."
    for name, inner in _groups(path, key):
        if found := _comment(CONF / name, inner) or (name == "trainer" and meanings(TRAINER).get(inner)):
            return found
    return meanings(TRAINER).get(key, "") or _comment(CONF, key, pattern="train.yaml")


def _groups(path: Path, key: str) -> Iterator[tuple[str, str]]:
    """Yield the groups that a key may belong to, and the key within each; teachers have names of their own."""
    parts = key.split(".")
    for place in range(len(parts) - 1):
        group = parts[place] if (CONF / parts[place]).is_dir() else "teacher" if path.parent.name == "distill" else None
        if group is not None:
            yield group, ".".join(parts[place + 1 :])


@cache
def _comment(folder: Path, key: str, pattern: str = "*.yaml") -> str:
    """Return the comment on a key in the files of a folder, or what their targets' docstrings say of it."""
    for path in sorted(folder.glob(pattern)):
        for row in rows(path):
            if row.key == key and row.comment:
                return row.comment
    for path in sorted(folder.glob(pattern)):
        values = {row.key: row.default for row in rows(path)}
        node, _, argument = key.rpartition(".")
        target = values.get(f"{node}._target_".lstrip("."))
        if key in values and target and (found := meanings(target, values.get("name")).get(argument)):
            return found
    return ""


def _leaves(node: yaml.MappingNode, prefix: str) -> Iterator[tuple[str, str, int]]:
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from _leaves(value, f"{name}.")
        else:
            text = "{}" if isinstance(value, yaml.MappingNode) else yaml.serialize(value).strip()
            text = text.removesuffix("...").strip()
            if isinstance(value, yaml.SequenceNode):
                text = str([item.value for item in value.value if isinstance(item, yaml.ScalarNode)]).replace("'", "")
            yield name, text, key.start_mark.line


def head(path: Path) -> tuple[str, list[str]]:
    """Return the description of a configuration file and the example commands below it."""
    comments = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#"):
            break
        comments.append(line.removeprefix("#").strip())
    examples = [line for line in comments if line.startswith("bnn ")]
    text = " ".join(line for line in comments if line and line not in examples)
    return text, [re.sub(r" {3,}(?=[^# ])", "    # ", line) for line in examples]


def table(found: list[Row]) -> str:
    """Return keys as a table of Markdown."""

    def cell(text: str) -> str:
        return text.replace("|", "\\|").replace("<", "&lt;")

    built = [row.default for row in found if row.key == "_target_"]
    hidden = ("_target_", "_partial_", "hydra.")  # Hydra's own settings are no keys of ours
    keys = [row for row in found if not row.key.endswith(hidden[:2]) and not row.key.startswith(hidden[2])]
    lines = [f"| `{row.key}` | `{row.default.replace('|', '/')}` | {cell(row.comment)} |" for row in keys]
    lines = ["| key | default | meaning |", "|---|---|---|", *lines] if lines else []
    return "\n".join([*(f"Builds `{target}`.\n" for target in built), *lines, ""])


def commands(verbs: Mapping[str, str]) -> str:
    """Return the page of all commands.

    Args:
        verbs: Description of each verb.
    """
    start = "Every key below is set on the command line as `key=value`. `bnn COMMAND --help` prints the same keys."
    parts = [f"# Commands\n\n{start}\n"]
    for verb, what in verbs.items():
        parts.append(f"## bnn {verb}\n\n{what[:1].upper()}{what[1:].rstrip('.')}.\n")
        path = CONF / f"{verb}.yaml"
        files = [path] if path.is_file() else sorted((CONF / verb).glob("*.yaml"))
        for file in files:
            text, examples = head(file)
            if file != path:
                parts.append(f"### bnn {verb} {file.stem}\n\n{text}.\n")
            if examples:
                parts.append("```bash\n" + "\n".join(examples) + "\n```\n")
            parts.append(table(explained(file)))
    return "\n".join(parts)


def configuration() -> dict[str, str]:
    """Return the pages of the configuration groups, by name: the list of groups, and a page a group."""
    pages, lines = {}, []
    for folder in sorted(path for path in CONF.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))):
        files = sorted(file for file in folder.glob("*.yaml") if not file.name.startswith("_"))
        if not files or folder.name == "visualize":  # whose files are commands
            continue
        parts = [f"# {folder.name}\n"]
        for file in files:
            text, examples = head(file)
            parts.append(f"## {folder.name}={file.stem}\n\n{text.replace('<', '&lt;')}\n")
            if examples:
                parts.append("```bash\n" + "\n".join(examples) + "\n```\n")
            found = explained(file)
            parts.append(table(found) if found else "This option sets nothing.\n")
        pages[folder.name] = "\n".join(parts)
        lines.append(f"| [`{folder.name}`]({folder.name}.md) | {', '.join(f'`{file.stem}`' for file in files)} |")
    start = (
        "# Configuration\n\nAn option of a group is chosen by `group=option`, and a key is changed by `key=value`.\n\n"
    )
    return {"index": start + "\n".join(["| group | options |", "|---|---|", *lines, ""])} | pages


def exports(package: str) -> dict[str, list[str]]:
    """Return the exported names of a package by submodule, read from its call of `attach`.

    Args:
        package: Name of the package within `bnn_lightning`; an empty name is `bnn_lightning` itself.
    """
    tree = ast.parse((SOURCE / package / "__init__.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "attach":
            found = eval(ast.unparse(node.args[1]), {"__builtins__": {}})  # names may be listed with a star
            return {module: list(names) for module, names in found.items()}
    return {}


def place(package: str, module: str, item: str) -> str:
    """Return the place of the definition of an exported name, through packages that export it in turn."""
    inner = f"{package}/{module.replace('.', '/')}".strip("/")
    if (SOURCE / inner / "__init__.py").is_file():
        for deeper, names in exports(inner).items():
            if item in names:
                return place(inner, deeper, item)
    return ".".join(("bnn_lightning", *inner.split("/"), item))


def companions(module: str, function: str) -> list[str]:
    """Return the places of the settings and the result of a workflow; nothing for names that are no workflow.

    Args:
        module: Module of the workflow within `bnn_lightning`, such as "workflows.evaluation".
        function: Name of the workflow.
    """
    tree = ast.parse((SOURCE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    places = {a.name: f"{n.module}.{a.name}" for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}
    places |= {n.name: f"bnn_lightning.{module}.{n.name}" for n in tree.body if isinstance(n, ast.ClassDef)}
    found = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            takes = [d.args[0] for d in node.decorator_list if isinstance(d, ast.Call) and len(d.args) == 1]
            found = [places[item.id] for item in (*takes, node.returns) if isinstance(item, ast.Name)]
    return [item for item in found if item.startswith("bnn_lightning.workflows.")]


def python() -> dict[str, str]:
    """Return the pages of the Python interface, by name: the top level, and a page a package."""
    pages, top = {}, {name for names in exports("").values() for name in names}
    for package, what in {"": "The functions at the top level.", **PACKAGES}.items():
        name = f"bnn_lightning.{package}".rstrip(".")
        parts = [f"# {name}\n\n{what}\n"]
        for module, names in exports(package).items():
            if package == "workflows":  # the functions themselves are on the page of the top level
                items = [found for one in names for found in companions(f"{package}.{module}", one)]
                items += [place(package, module, one) for one in names if one not in top]
            else:
                items = [place(package, module, item) for item in sorted(names)] or [f"{name}.{module}"]
            parts += [f"::: {item}\n" for item in items]
        pages[package or "index"] = "\n".join(parts)
    return pages


def pages() -> dict[str, str]:
    """Return the text of every written page by its place in the documentation."""
    from bnn_lightning.cli.main import VERBS  # late: the hook is read before the project can be imported in tests

    return (
        {"reference/commands.md": commands({verb: row.summary for verb, row in VERBS.items()})}
        | {f"reference/configuration/{name}.md": text for name, text in configuration().items()}
        | {f"reference/python/{name}.md": text for name, text in python().items()}
    )


def written() -> list[str]:
    """Return the places of the written pages."""
    return list(pages())


def expand(navigation: Any, places: list[str]) -> Any:
    """Return a navigation with the pages of each folder that is written as `folder/*`.

    Args:
        navigation: The `nav` of `mkdocs.yml`.
        places: Places of the written pages.
    """
    if isinstance(navigation, list):
        return [expand(entry, places) for entry in navigation]
    if isinstance(navigation, dict):
        return {title: expand(entry, places) for title, entry in navigation.items()}
    if navigation.endswith("/*"):
        folder = navigation[:-1]
        return sorted(
            (page for page in places if page.startswith(folder)), key=lambda p: (not p.endswith("index.md"), p)
        )
    return navigation


def on_config(config: Any) -> Any:
    """Expand the navigation (called by MkDocs)."""
    config["nav"] = expand(config["nav"], written())
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the written pages (called by MkDocs)."""
    from mkdocs.structure.files import File

    for place, text in pages().items():
        files.append(File.generated(config, place, content=text))
    return files
