"""Sections of a configuration from names, as calls in Python give them."""

from collections.abc import Mapping
from typing import Any

from bnn_lightning.workflows.building import DATA, FACTS, PACKAGE, section_of_data

Plain = dict[str, Any]


def data_section(data: str | Plain, data_dir: str) -> Plain:
    """Return the section of a set that is named; other sections and single keys are as they were.

    Args:
        data: Name of a set, its arguments with its `name`, a section, or single keys.
        data_dir: Folder of the data files of a set that is named.

    Raises:
        UserError: An unknown name, or a value that the data module refuses.
    """
    if isinstance(data, str):
        return section_of_data(data, root=data_dir)
    if "_target_" not in data and data.get("name") in DATA:
        return section_of_data(**({"root": data_dir} | data))
    return dict(data)


def model_section(model: str | Plain, data: Mapping[str, Any]) -> Plain:
    """Return the section of a network that is named, with the facts of its data; other sections are as they were.

    Args:
        model: Name of a backbone, its arguments with its `name`, or a section.
        data: Section of its data.

    Example:
        >>> model_section({"name": "mlp", "width": 64}, {"num_classes": 10})["_target_"]
        'bnn_lightning.models.create_backbone'
    """
    section = {"name": model} if isinstance(model, str) else dict(model)
    if "_target_" in section or "name" not in section:
        return section
    facts = {fact: data[fact] for fact in FACTS if fact in data}
    return {"_target_": f"{PACKAGE}.models.create_backbone", **facts, **section}
