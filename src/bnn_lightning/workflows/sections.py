"""Sections of a configuration from names, and facts of the data that they take, such as the number of classes."""

from collections.abc import Mapping, Sequence
from typing import Any

from bnn_lightning.workflows.building import DATA, FACTS, PACKAGE, build_datamodule, locate, section_of_data, takes
from bnn_lightning.workflows.errors import UserError

Plain = dict[str, Any]

_NEEDED = ("num_classes", "in_channels", "image_size")


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


def missing_facts(data: Mapping[str, Any], *, trust: Sequence[str] = ()) -> dict[str, Any]:
    """Return the facts that a section `data` does not state, from its data module.

    Args:
        data: The section, as plain containers.
        trust: See `build`.

    Raises:
        UserError: Nobody says how many classes there are, or the section and its module say different things.
    """
    if all(fact in data and (fact not in _NEEDED or data[fact] is not None) for fact in FACTS):
        return {}
    datamodule = build_datamodule(data, trust=trust)
    missing: dict[str, Any] = {}
    for fact in FACTS:
        value, stated = _plain(getattr(datamodule, fact, None)), data.get(fact)
        if value is None and stated is None and fact == "num_classes":
            raise UserError(
                f"`data`: {type(datamodule).__name__} does not say `{fact}`: give it as an attribute of the data "
                f"module, or in its file as `{fact}: ...`."
            )
        if value is not None and stated is not None and fact in _NEEDED and stated != value:
            raise UserError(f"`data.{fact}` is {stated}, and {type(datamodule).__name__} says {value}: leave it out.")
        is_open = fact not in data or (fact in _NEEDED and stated is None)
        if is_open and (value is not None or fact not in _NEEDED):
            missing[fact] = value
    return missing


def facts_taken(node: Mapping[str, Any], data: Mapping[str, Any], *, at: str, trust: Sequence[str] = ()) -> list[str]:
    """Return the facts of the data that a builder takes and that its section does not state.

    Args:
        node: The section, with a `_target_`.
        data: The section `data`.
        at: Name of the section.
        trust: See `build`.
    """
    target = locate(node["_target_"], at=at, trust=trust)
    return [fact for fact in FACTS if fact in data and fact not in node and takes(target, fact)]


def _plain(value: Any) -> Any:
    value = value.tolist() if hasattr(value, "tolist") else value
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
