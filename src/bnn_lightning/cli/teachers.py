"""Teachers that `bnn rank` names by options of the configuration."""

from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from bnn_lightning.cli.config_paths import list_options
from bnn_lightning.cli.own_folder import own_targets
from bnn_lightning.cli.schema import plain_values
from bnn_lightning.distill.teacher import FrozenTeacher
from bnn_lightning.models.float_teachers import torchvision_classifiers
from bnn_lightning.workflows.building import build
from bnn_lightning.workflows.errors import UserError, did_you_mean, listed
from bnn_lightning.workflows.ranking import RULE


def refuse_no_teacher(teachers: list[str]) -> None:
    """Refuse an empty list.

    Raises:
        UserError: Names the options that there are.
    """
    if not teachers:
        raise UserError(f"`teachers` is empty: {RULE}. Options are: {', '.join(list_options('teacher'))}.")


def option_reader(name: str, data: dict[str, Any]) -> FrozenTeacher:
    """Return the teacher of an option of the group `teacher`, or a classifier of torchvision.

    Args:
        name: The option, or torchvision's name.
        data: The section `data` of the student, with the number of classes and the shape of images.

    Raises:
        UserError: There is no such option, or it does not say all.
    """
    facts = [f"++data.{key}={data[key]}" for key in ("num_classes", "in_channels", "image_size")]
    node = compose("rank", ["student=x", *_words(name), *facts])["candidate"]
    if missing := [key for key in OmegaConf.missing_keys(node) if key]:
        raise UserError(
            f"`teachers`: `{name}` has no value for {listed(key.partition('.')[2] for key in missing)}: name a run of "
            "ours, or an option that says all."
        )
    teacher = build(plain_values(node), at=f"teacher={name}", trust=own_targets())
    if not isinstance(teacher, FrozenTeacher):
        raise UserError(f"`teachers`: `{name}` is no teacher but {type(teacher).__name__}.")
    return teacher


def _words(name: str) -> list[str]:
    """Return the overrides that mount a teacher as `candidate`."""
    group, _, option = f"teacher/{name}".rpartition("/")
    loader = GlobalHydra.instance().config_loader()
    if option not in loader.get_group_options(group) or option.startswith("_"):
        classifiers = torchvision_classifiers()
        if name in classifiers:
            return ["+teacher@candidate=torchvision", f"candidate.network.name={name}"]
        options = loader.get_group_options("teacher")
        near = did_you_mean(name, [*options, *classifiers])
        raise UserError(
            f"`teachers`: there is no file or folder {name}, and no option of the group `teacher`."
            f"{near} Name a run of ours, a classifier of torchvision, or an option; `teacher` has: {listed(options)}."
        )
    return [f"+teacher@candidate={name}"]
