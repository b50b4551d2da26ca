"""The keys of a verb, for `--help`: their defaults and the comments of its configuration file."""

import re
from collections.abc import Iterator

from bnn_lightning.cli.config_paths import config_dir

_LINE = re.compile(r"^(?P<indent> *)(?P<key>\w+):(?P<value>[^#]*?)(?:\s+#\s*(?P<comment>.*))?$")


def describe_keys(config_name: str) -> str:
    """Return a line for each key of a primary configuration: name, default and description.

    Args:
        config_name: Name of the file, such as `evaluate` or `visualize/landscape`.
    """
    rows = [(f"{key}={value}", comment) for key, value, comment in keys_of(config_name)]
    width = min(max((len(key) for key, _ in rows), default=0), 40) + 2
    lines = "".join(f"    {key:<{width}}{comment}".rstrip() + "\n" for key, comment in rows)
    return f"== Keys of `bnn {config_name.replace('/', ' ')}` ==\n\n{lines}\n"


def keys_of(config_name: str) -> Iterator[tuple[str, str, str]]:
    """Yield key, default and comment of each value in a primary configuration, and in the sections that it writes."""
    section = ""
    for line in (config_dir() / f"{config_name}.yaml").read_text(encoding="utf-8").splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        key, value = found["key"], found["value"].strip()
        if not found["indent"]:
            section = key
        if section in ("defaults", "hydra") or key.startswith("_") or (not found["indent"] and value in ("", "{}")):
            continue
        name = f"{section}.{key}" if found["indent"] else key
        yield name, value, found["comment"] or ""
