"""Loggers of a run: the CSV file always, distinct names in a sweep, and continuation of resumed runs."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bnn_lightning.workflows.resumption import Resumption

Node = dict[str, Any]
_PREFIX = "pytorch_lightning.loggers."


def named_loggers(nodes: Mapping[str, Any] | None, name: str, group: str | None = None) -> dict[str, Node]:
    """Return the nodes of loggers with the name of the run; values that the user gave stay.

    Args:
        nodes: Section `logger`.
        name: Name of the run.
        group: Sweep that the run belongs to.
    """
    named = {key: dict(node) for key, node in (nodes or {}).items() if node is not None}
    for node in named.values():
        if node.get("_target_") == f"{_PREFIX}WandbLogger":
            _fill(node, name=name, group=group)
        elif node.get("_target_") == f"{_PREFIX}MLFlowLogger":
            _fill(node, run_name=name)
            node["tags"] = {**({"group": group} if group else {}), **(node.get("tags") or {})}
    return named


def resumed_loggers(nodes: Mapping[str, Node], run_dir: Path, start: Resumption | None) -> dict[str, Node]:
    """Return the nodes of loggers, with the ids of the run that is resumed.

    Args:
        nodes: See `named_loggers`.
        run_dir: Folder of the run.
        start: Training state that the run resumes from.
    """
    resumed = {key: dict(node) for key, node in nodes.items()}
    ids = {} if start is None else start.ids()
    for node in resumed.values():
        target = str(node.get("_target_"))
        if target == "bnn_lightning.loggers.CSVLogger" and start is not None:
            node |= {"resume_step": start.step, "version": _last_version(run_dir, start, int(node.get("version", 0)))}
        elif target == f"{_PREFIX}TensorBoardLogger" and start is not None and start.in_place:
            node.setdefault("purge_step", start.step)
        elif target == f"{_PREFIX}WandbLogger":
            _fill(node, id=ids.get("wandb"))
        elif target == f"{_PREFIX}MLFlowLogger":
            if str(node.get("tracking_uri")).startswith("file:"):
                os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow's own default is a database
            _fill(node, run_id=ids.get("mlflow"))
    return resumed


def _fill(node: Node, **values: str | None) -> None:
    node.update({key: value for key, value in values.items() if value is not None and node.get(key) is None})


def _last_version(run_dir: Path, start: Resumption, version: int) -> int:
    """Return the number of the newest CSV file; runs of earlier releases have one for each time they were resumed."""
    folder = run_dir if start.in_place else start.path.parent.parent
    found = [path.parent.name.rpartition("_")[2] for path in folder.glob("csv/version_*/metrics.csv")]
    return max([version, *(int(number) for number in found if number.isdigit())])
