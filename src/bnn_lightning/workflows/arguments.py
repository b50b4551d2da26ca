"""Types of configuration values: of the keys that our own code reads, and of the arguments of whatever is built."""

import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from bnn_lightning.cli.errors import UserError, did_you_mean, listed
from bnn_lightning.cli.own_folder import own_targets

# Hydra's own keys of a node that is built.
NODE_KEYS = ("_target_", "_partial_", "_convert_", "_recursive_")
# What an experiment writes where a path must be given. (OmegaConf's `???` does not replace a value that is there.)
REQUIRED = "required"


@dataclass
class RunSettings:
    """The keys of `train.yaml` that `bnn train` itself reads."""

    name: str
    seed: int
    epochs: int
    warmup_epochs: int = 0
    warmup_start: float | None = None
    decay_epochs: int | None = None
    min_lr_factor: float = 0.0
    ckpt_path: str | None = None
    init_from: str | None = None
    freeze: Any = None  # a pattern or a list of them
    test: bool = True
    objective: str | None = None
    on_nonfinite: str = "raise"
    matmul_precision: str = "highest"
    trust: list[str] = field(default_factory=list)


@dataclass
class EvaluateSettings:
    """The keys of `evaluate.yaml` that `bnn evaluate` itself reads."""

    ckpt: str | None = None
    packed: str | None = None
    seed: int = 1
    matmul_precision: str = "highest"
    trust: list[str] = field(default_factory=list)


@dataclass
class ProfileSettings:
    """The keys of `profile.yaml` that `bnn profile` itself reads."""

    ckpt: str | None = None
    format: str = "text"
    trust: list[str] = field(default_factory=list)


@dataclass
class PrepareSettings:
    """The keys of `prepare.yaml`."""

    source: str
    output: str
    to: str = "folder"
    size: int | None = 400
    side: str = "longer"
    quality: int = 90
    chunk_mib: int = 64
    on_damaged: str = "skip"
    num_workers: int | None = None


@dataclass
class ExportSettings:
    """The keys of `export.yaml` that `bnn export` itself reads."""

    ckpt: str
    out: str | None = None
    format: str = "packed"
    rest: str = "fp32"
    stem: str = "fp32"
    precise: bool = True
    max_drop: float = 1.0
    margin: float = 1e-3
    images: int | None = 1000
    seed: int = 1
    trust: list[str] = field(default_factory=list)


@dataclass
class VerifySettings:
    """The keys of `verify.yaml`."""

    packed: str


@dataclass
class PredictSettings:
    """The keys of `predict.yaml` that `bnn predict` itself reads."""

    images: str
    packed: str | None = None
    ckpt: str | None = None
    seed: int = 1
    trust: list[str] = field(default_factory=list)
    top: int = 1
    out: str | None = None
    resize: float | None = None
    on_damaged: str = "error"
    batch_size: int = 32
    threads: int | None = None


@dataclass
class ReportSettings:
    """The keys of `report.yaml` that `bnn report` itself reads."""

    run: str
    out: str | None = None
    images: int | None = 10_000
    examples: int = 24
    latency: bool = True
    seed: int = 1
    trust: list[str] = field(default_factory=list)


@dataclass
class BenchmarkSettings:
    """The keys of `benchmark.yaml` that `bnn benchmark` itself reads."""

    packed: str | None = None
    ckpt: str | None = None
    layers: bool = False
    threads: list[int] | None = None
    batch: list[int] = field(default_factory=lambda: [1])
    rivals: list[str] | None = None
    larq: str | None = None
    repeats: int = 15
    strict: bool = False
    out: str | None = None
    chart: str | None = None
    seed: int = 1
    trust: list[str] = field(default_factory=list)


@dataclass
class RankSettings:
    """The keys of `rank.yaml` that `bnn rank` itself reads."""

    student: str
    teachers: list[str] = field(default_factory=list)
    format: str = "text"
    seed: int = 1
    trust: list[str] = field(default_factory=list)


Settings = typing.TypeVar("Settings")  # a dataclass
# By class of settings and key: the choices that there are.
_CHOICES: dict[type, dict[str, tuple[str, ...]]] = {
    RunSettings: {"matmul_precision": ("highest", "high", "medium"), "on_nonfinite": ("raise", "skip", "ignore")},
    EvaluateSettings: {"matmul_precision": ("highest", "high", "medium")},
    ProfileSettings: {"format": ("text", "json", "csv")},
    RankSettings: {"format": ("text", "json")},
    PredictSettings: {"on_damaged": ("error", "skip")},
    PrepareSettings: {"on_damaged": ("error", "skip")},
    ExportSettings: {
        "format": ("packed", "torch", "onnx", "c", "web"),
        "rest": ("fp32", "int8"),
        "stem": ("fp32", "u8"),
    },
}
# Keys whose values count something, or scale it.
_POSITIVE = (
    *("epochs", "images", "size", "top", "batch_size", "threads", "resize"),
    *("dpi", "workers", "batch", "repeats"),
)


def read_settings(
    kind: type[Settings], config: DictConfig, choices: Mapping[str, Sequence[str]] | None = None
) -> Settings:
    """Return the keys of `kind` from a configuration, with their types checked.

    Args:
        kind: A dataclass; fields without a default must have a value.
        config: As composed by Hydra.
        choices: By key, the values that there are, of a `kind` that is not of this file.

    Raises:
        omegaconf.errors.OmegaConfBaseException: A value of another type, or none where one is needed.
        UserError: A value out of its range.
    """
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    given = {name: config[name] for name in names if name in config}
    settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), given))
    assert isinstance(settings, kind)
    for key in _POSITIVE:
        given_values = getattr(settings, key, None)
        for value in given_values if isinstance(given_values, list) else [given_values]:
            if isinstance(value, int | float) and value < 1:
                raise UserError(f"`{key}` must be 1 or more, got {value}.")
        if given_values == []:
            raise UserError(f"`{key}` must name at least one number, got [].")
    seed = getattr(settings, "seed", 0)
    if isinstance(seed, int) and not 0 <= seed < 2**32:  # what NumPy and Lightning take
        raise UserError(f"`seed` must lie between 0 and {2**32 - 1}, got {seed}.")
    for key, values in (choices or _CHOICES.get(kind, {})).items():
        if getattr(settings, key) not in values:
            one = ", ".join(values[:-1])
            raise UserError(f"`{key}` must be {one} or {values[-1]}, got {getattr(settings, key)}.")
    if hasattr(settings, "trust"):
        settings.trust = [*settings.trust, *own_targets()]
    if isinstance(settings, RunSettings) and settings.init_from == REQUIRED and settings.ckpt_path is None:
        raise UserError("`init_from` has no value: this experiment starts from weights, give init_from=<checkpoint>.")
    return settings


def plain_values(node: DictConfig) -> dict[str, Any]:
    """Return a section of a configuration as plain containers, resolved."""
    plain = OmegaConf.to_container(node, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def check_arguments(function: Callable[..., Any], arguments: Mapping[str, Any], at: str, *, partial: bool) -> None:
    """Hold arguments against a signature: names, types of plain values, and what is missing.

    Args:
        function: What will be called.
        arguments: Keyword arguments, nested nodes still as dictionaries.
        at: Where they stand in the configuration.
        partial: More arguments will be given later.

    Raises:
        UserError: An argument that does not exist, has another type, or is missing.

    Example:
        >>> def sgd(lr: float, nesterov: bool = False) -> None: ...
        >>> check_arguments(sgd, {"lr": 0.1, "nesterov": "yes"}, "optimizer", partial=False)
        Traceback (most recent call last):
        ...
        bnn_lightning.cli.errors.UserError: `optimizer.nesterov` must be true or false, got 'yes'.
    """
    parameters = _signature(function).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {name: p for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    what = getattr(function, "__name__", str(function))
    for name, value in arguments.items():
        if name not in named:
            if takes_any:
                continue
            near = did_you_mean(name, named)
            raise UserError(f"`{at}.{name}`: {what} has no argument `{name}`.{near} It takes: {listed(named)}.")
        check_value(value, named[name].annotation, f"{at}.{name}")
    missing = [name for name, p in named.items() if p.default is p.empty and name not in arguments]
    if missing and not partial:
        raise UserError(f"`{at}`: {what} needs {', '.join(f'`{at}.{name}`' for name in missing)}.")


def check_value(value: Any, annotation: Any, at: str) -> None:
    """Raise `UserError` where a plain value is not of the annotated type, or is an empty string."""
    if value == "" and isinstance(value, str):
        raise UserError(f"`{at}` is empty: give a value (`{at}=...`), or null.")
    if not _accepts(annotation, value):
        written = {"True": "true", "False": "false", "None": "null"}
        raise UserError(f"`{at}` must be {_describe(annotation)}, got {written.get(repr(value), repr(value))}.")


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except (NameError, TypeError, AttributeError):  # annotations that exist for type checkers only
        return inspect.signature(function)


def _accepts(annotation: Any, value: Any) -> bool:
    # Lenient: False only where the annotation is made of plain types and the value is of none of them.
    if annotation in (Any, inspect.Parameter.empty):
        return True
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(_accepts(a, value) for a in arguments)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if annotation in (None, type(None)):
        return value is None
    if annotation is bool:
        return isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is str:
        return isinstance(value, str)
    container = origin or annotation
    if inspect.isclass(container):
        if issubclass(container, Collection) and not issubclass(container, str | bytes):
            return _accepts_collection(container, arguments, value)
        # A class or a callable comes from a node, a path from a string; numbers may be asked for as `numbers.Number`.
        return isinstance(value, container) or not isinstance(value, bool | int | float | None)
    return True


def _accepts_collection(container: type, arguments: tuple[Any, ...], value: Any) -> bool:
    if isinstance(value, Mapping):
        return issubclass(container, Mapping) or "_target_" in value
    if issubclass(container, Mapping) or not isinstance(value, list | tuple):
        return False
    kinds = [a for a in arguments if a is not Ellipsis]
    if len(kinds) > 1:
        return len(kinds) == len(value) and all(map(_accepts, kinds, value))
    return not kinds or all(_accepts(kinds[0], item) for item in value)


_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "null",
    None: "null",
}


def _describe(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in _WORDS:
        return _WORDS[annotation]
    if origin in (typing.Union, types.UnionType):
        choices = [choice for a in arguments if typing.get_origin(a) is Literal for choice in typing.get_args(a)]
        others = [_describe(a) for a in arguments if typing.get_origin(a) is not Literal]
        return " or ".join(dict.fromkeys([*others, *([_one_of(choices)] if choices else [])]))
    if origin is Literal:
        return _one_of(arguments)
    container = origin or annotation
    if inspect.isclass(container) and issubclass(container, Mapping):
        return "a mapping"
    if inspect.isclass(container) and issubclass(container, Collection):
        return "a list" + (f" ({_describe(arguments[0])} each)" if arguments else "")
    return f"a node with a `_target_` ({getattr(container, '__name__', container)})"


def _one_of(choices: Sequence[Any]) -> str:
    names = list(dict.fromkeys(map(str, choices)))
    return f"one of {', '.join(names)}" if len(names) > 1 else names[0]
