"""Loggers of a run: the CSV file always, names that tell the runs of a sweep apart, and resumed runs that go on."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from bnn_lightning.cli import sweep
from bnn_lightning.cli.launch import is_sweep
from bnn_lightning.cli.resume import Resumption

Node = dict[str, Any]
_PREFIX = "pytorch_lightning.loggers."


def logger_nodes(plain: Mapping[str, Any], start: Resumption | None) -> dict[str, Node]:
    """Return the nodes of the loggers with what depends on the run; values that the user gave stay.

    Args:
        plain: The whole configuration.
        start: What the run goes on from.
    """
    name, group = _name(plain), _group(plain)
    ids = {} if start is None else start.ids()
    nodes = {key: dict(node) for key, node in (plain.get("logger") or {}).items() if node is not None}
    for node in nodes.values():
        target = str(node.get("_target_"))
        if target == "bnn_lightning.loggers.CSVLogger" and start is not None:
            node |= {"resume_step": start.step, "version": _last_version(plain, start, int(node.get("version", 0)))}
        elif target == f"{_PREFIX}TensorBoardLogger" and start is not None and start.in_place:
            node.setdefault("purge_step", start.step)
        elif target == f"{_PREFIX}WandbLogger":
            _fill(node, name=name, group=group, id=ids.get("wandb"))
        elif target == f"{_PREFIX}MLFlowLogger":
            if str(node.get("tracking_uri")).startswith("file:"):
                os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow's own default is a database
            _fill(node, run_name=name, run_id=ids.get("mlflow"))
            node["tags"] = {**({"group": group} if group else {}), **(node.get("tags") or {})}
    return nodes


def _fill(node: Node, **values: str | None) -> None:
    node.update({key: value for key, value in values.items() if value is not None and node.get(key) is None})


def _last_version(plain: Mapping[str, Any], start: Resumption, version: int) -> int:
    """Return the number of the newest CSV file; runs of earlier releases have one for each time they were resumed."""
    folder = Path(plain["paths"]["run_dir"]) if start.in_place else start.path.parent.parent
    found = [path.parent.name.rpartition("_")[2] for path in folder.glob("csv/version_*/metrics.csv")]
    return max([version, *(int(number) for number in found if number.isdigit())])


def _name(plain: Mapping[str, Any]) -> str:
    name = str(plain["name"])
    if not is_sweep():
        return name
    number = HydraConfig.get().job.num
    job = next((job for job in sweep.running.jobs if job.number == number), None)
    return " ".join([name, *(sweep.running.differing(job) if job is not None else [str(number)])])


def _group(plain: Mapping[str, Any]) -> str | None:
    return Path(plain["paths"]["run_dir"]).parent.name if is_sweep() else None
