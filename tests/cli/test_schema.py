from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, ValidationError
from torch import nn

from bnn_lightning.cli.config_paths import config_dir
from bnn_lightning.cli.schema import read_settings
from bnn_lightning.workflows.arguments import check_arguments, check_value
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.figure_kinds import KINDS
from bnn_lightning.workflows.settings import (
    BenchmarkSettings,
    EvaluateSettings,
    ExportSettings,
    PredictSettings,
    PrepareSettings,
    ProfileSettings,
    RankSettings,
    ReportSettings,
    TrainSettings,
    VerifySettings,
)
from bnn_lightning.workflows.visualization import settings_of


@pytest.mark.parametrize(
    "annotation, good, bad",
    [
        (int, [3, -1], ["3", 2.5, True, None, [3]]),
        (float, [0.5, 3], ["fast", True, None]),
        (bool, [True, False], [1, "yes", None]),
        (str, ["a"], [1, True, None, ["a"]]),
        (int | None, [3, None], ["3", 2.5]),
        (Literal["epoch", "step"], ["epoch"], ["week", 1]),
        (Literal[1, 2] | None, [1, None], [True, 3]),
        (list[int], [[1], []], [1, ["a"], {"a": 1}]),
        (Sequence[float] | None, [[0.5, 1], None], [0.5, "0.5"]),
        (tuple[float, float], [[0.8, 0.9]], [[0.8], [1, 2, 3], ["a", "b"]]),
        (dict[str, int], [{"a": 1}], [[1], 1]),
        (Mapping[str, Any], [{}], [1]),
        (str | Path, ["a"], [1]),
        (nn.Module, [{"_target_": "x"}], [1, None, True]),
        (Callable[[int], int] | None, [{"_target_": "x"}, None], [1]),
        (Any, [1, "a", None, [1]], []),
    ],
)
def test_types(annotation: Any, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        check_value(value, annotation, "a.b")
    for value in bad:
        with pytest.raises(UserError, match=r"`a\.b` must be"):
            check_value(value, annotation, "a.b")


@pytest.mark.parametrize("annotation", [str, int, Any, str | None])
def test_an_empty_string_is_no_value(annotation: Any) -> None:
    with pytest.raises(UserError, match="is empty"):
        check_value("", annotation, "trainer.devices")


def test_messages_speak_of_values_as_they_are_written() -> None:
    with pytest.raises(UserError, match="must be a whole number, got null"):
        check_value(None, int, "a")
    with pytest.raises(UserError, match="must be a whole number, got true"):
        check_value(True, int, "a")
    with pytest.raises(UserError, match="must be a whole number or one of auto, all, got 'x'"):
        check_value("x", int | Literal["auto", "all"], "a")


def test_arguments() -> None:
    def function(a: int, *, b: str = "x") -> None: ...

    check_arguments(function, {"a": 1}, "node", partial=False)
    check_arguments(function, {"b": "y"}, "node", partial=True)
    with pytest.raises(UserError, match=r"function needs `node\.a`"):
        check_arguments(function, {"b": "y"}, "node", partial=False)
    with pytest.raises(UserError, match=r"`node\.c`: function has no argument `c`.*It takes: a, b"):
        check_arguments(function, {"a": 1, "c": 1}, "node", partial=False)


def test_any_keyword_is_taken_where_the_function_takes_any() -> None:
    def function(**options: int) -> None: ...

    check_arguments(function, {"anything": "x"}, "node", partial=False)


def run(**keys: Any) -> Any:
    return OmegaConf.create({"name": "a", "seed": 1, "epochs": 2, "other": {"x": 1}, **keys})


def test_settings_are_read_with_their_types() -> None:
    settings = read_settings(TrainSettings, run(trust=["a"], test=False, who="${name}"))
    assert settings == TrainSettings(name="a", seed=1, epochs=2, trust=["a"], test=False)
    assert read_settings(EvaluateSettings, OmegaConf.create({"ckpt": "x.ckpt"})).ckpt == "x.ckpt"


@pytest.mark.parametrize("keys", [{"seed": "abc"}, {"epochs": 2.5}, {"test": "perhaps"}])
def test_settings_of_another_type(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        read_settings(TrainSettings, run(**keys))


def test_missing_settings() -> None:
    with pytest.raises(MissingMandatoryValue):
        read_settings(ExportSettings, OmegaConf.create({"ckpt": "???"}))


SETTINGS: dict[str, type] = {
    "train": TrainSettings,
    "evaluate": EvaluateSettings,
    "profile": ProfileSettings,
    "prepare": PrepareSettings,
    "export": ExportSettings,
    "verify": VerifySettings,
    "predict": PredictSettings,
    "report": ReportSettings,
    "benchmark": BenchmarkSettings,
    "rank": RankSettings,
    **{f"visualize/{kind}": settings_of(kind) for kind in KINDS},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_files_of_verbs_hold_the_defaults_of_their_settings(name: str) -> None:
    stated = yaml.safe_load((config_dir() / f"{name}.yaml").read_text(encoding="utf-8"))
    keys = {field.name: field for field in fields(SETTINGS[name])}
    own = {key for key, value in stated.items() if not isinstance(value, dict)}
    # Keys beside the settings are those that other keys refer to.
    assert own - {"defaults"} - set(keys) <= {"published", "class_weights", "seed"}, own
    for key in keys.keys() & own:
        field = keys[key]
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if stated[key] == "???":
            assert default is MISSING or name == "rank", key
        elif "${" not in str(stated[key]):
            assert stated[key] == default, key
    assert set(keys) - own <= {"trust"}
