"""Settings of the verbs: the one source of their keys, types, choices and defaults."""

import functools
import inspect
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, cast

from bnn_lightning.deploy.export.formats import FORMATS
from bnn_lightning.workflows.arguments import check_arguments
from bnn_lightning.workflows.errors import UserError, did_you_mean, listed
from bnn_lightning.workflows.old_names import new_key

Settings = TypeVar("Settings")  # a dataclass
Verb = TypeVar("Verb", bound=Callable[..., Any])

# Placeholder of an experiment for a path that must be given. (OmegaConf's `???` replaces no value that is there.)
REQUIRED = "required"
# Keys of the command line that stand in a section of a verb's arguments.
_IN_SECTIONS = {"precision": "trainer", "strategy": "trainer", "class_weights": "task"}
# Keys whose values count something, or scale it.
_POSITIVE = (
    *("epochs", "images", "size", "top", "batch_size", "threads", "resize"),
    *("dpi", "workers", "batch", "repeats", "channels", "count", "columns", "hessian_iterations"),
)
_NOT_NEGATIVE = ("index", "examples", "bn_images", "hessian_images")


def choice(*values: str, default: str | None = None) -> str:
    """Return the field of a key that has a few values, of which the first is the default where none is named."""
    made: str = field(default=default or values[0], metadata={"choices": values})
    return made


@dataclass
class TrainSettings:
    """The keys of `train.yaml` that `bnn train` itself reads."""

    name: str = "run"
    seed: int = 1
    epochs: int = 30
    warmup_epochs: int = 0
    warmup_start: float | None = None
    decay_epochs: int | None = None
    min_lr_factor: float = 0.0
    ckpt_path: str | None = None
    init_from: str | None = None
    freeze: Any = None  # a pattern or a list of them
    test: bool = True
    objective: str | None = None
    on_nonfinite: str = choice("raise", "skip", "ignore")
    matmul_precision: str = choice("highest", "high", "medium")
    trust: list[str] = field(default_factory=list)


@dataclass
class EvaluateSettings:
    """The keys of `evaluate.yaml` that `bnn evaluate` itself reads."""

    ckpt: str | None = None
    packed: str | None = None
    seed: int = 1
    matmul_precision: str = choice("highest", "high", "medium")
    trust: list[str] = field(default_factory=list)


@dataclass
class ProfileSettings:
    """The keys of `profile.yaml` that `bnn profile` itself reads."""

    ckpt: str | None = None
    format: str = choice("text", "json", "csv")
    trust: list[str] = field(default_factory=list)


@dataclass
class PrepareSettings:
    """The keys of `prepare.yaml`."""

    source: str
    output: str
    to: str = choice("folder", "stream")
    size: int | None = 400
    side: str = choice("longer", "shorter")
    quality: int = 90
    chunk_mib: int = 64
    on_damaged: str = choice("error", "skip", default="skip")
    num_workers: int | None = None


@dataclass
class ExportSettings:
    """The keys of `export.yaml` that `bnn export` itself reads."""

    ckpt: str
    out: str | None = None
    format: str = choice(*FORMATS)
    rest: str = choice("fp32", "int8")
    stem: str = choice("fp32", "u8")
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
    on_damaged: str = choice("error", "skip")
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
    baselines: list[str] | None = None
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
    format: str = choice("text", "json")
    seed: int = 1
    trust: list[str] = field(default_factory=list)


def make_settings(kind: type[Settings], verb: str, **options: Any) -> Settings:
    """Return the settings of a verb that is called from Python, checked.

    Args:
        kind: Their dataclass.
        verb: Name of the verb, for messages.
        options: Values by key; paths may be objects.

    Raises:
        UserError: A key that does not exist, a value of another type or out of its range, or a key without its value.
    """
    _check_names(verb, options, [known.name for known in fields(kind)])  # type: ignore[arg-type]
    plain = {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in options.items()}
    check_arguments(kind, plain, verb, partial=False)
    settings = kind(**plain)
    check_settings(settings)
    return settings


def takes(kind: type) -> Callable[[Verb], Verb]:
    """Show the keys of a dataclass of settings, with their types and defaults, in the signature of a verb.

    The verb refuses other names than those of the signature, and sections that are no mappings.

    Args:
        kind: Dataclass that the verb makes of its `**options`.
    """

    def shown(verb: Verb) -> Verb:
        signature = inspect.signature(verb)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        names = [parameter.name for parameter in own]
        keys = [p for p in inspect.signature(kind).parameters.values() if p.name not in names]
        keys.sort(key=lambda parameter: parameter.default is not parameter.empty)
        parameters = [*own, *(key.replace(kind=key.KEYWORD_ONLY) for key in keys)]
        allowed = [parameter.name for parameter in parameters]
        sections = [parameter.name for parameter in own if parameter.annotation == dict[str, Any] | None]

        @functools.wraps(verb)
        def checked(*arguments: Any, **options: Any) -> Any:
            _check_names(verb.__name__, options, allowed)
            for name in sections:
                if not isinstance(options.get(name, {}), Mapping | None):
                    raise UserError(f"`{name}` must be a section, {name}={{key: value}}, got {options[name]!r}.")
            return verb(*arguments, **options)

        checked.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return cast(Verb, checked)

    return shown


def _check_names(verb: str, options: Collection[str], known: Collection[str]) -> None:
    """Raise `UserError` where an option of a verb does not exist."""
    for key in options:
        if key in known:
            continue
        if (new := new_key(key)) is not None:
            raise UserError(f"`{key}` is called `{new}` now.")
        if (section := _IN_SECTIONS.get(key)) in known:
            raise UserError(f'`{verb}` has no argument `{key}`: give {section}={{"{key}": ...}}.')
        raise UserError(f"`{verb}` has no argument `{key}`.{did_you_mean(key, known)} It takes: {listed(known)}.")


def check_settings(settings: Any) -> None:
    """Hold the values of settings against their ranges and choices.

    Args:
        settings: An instance of a dataclass.

    Raises:
        UserError: A value out of its range.
    """
    for key in _POSITIVE:
        given = getattr(settings, key, None)
        for value in given if isinstance(given, list) else [given]:
            if isinstance(value, int | float) and value < 1:
                raise UserError(f"`{key}` must be 1 or more, got {value}.")
        if given == []:
            raise UserError(f"`{key}` must name at least one number, got [].")
    for key in _NOT_NEGATIVE:
        if getattr(settings, key, 0) < 0:
            raise UserError(f"`{key}` must not be negative, got {getattr(settings, key)}.")
    seed = getattr(settings, "seed", 0)
    if isinstance(seed, int) and not 0 <= seed < 2**32:  # what NumPy and Lightning take
        raise UserError(f"`seed` must lie between 0 and {2**32 - 1}, got {seed}.")
    stated = {key.name: key.metadata["choices"] for key in fields(settings) if "choices" in key.metadata}
    for key, values in stated.items():
        if getattr(settings, key) not in values:
            one = ", ".join(values[:-1])
            raise UserError(f"`{key}` must be {one} or {values[-1]}, got {getattr(settings, key)}.")
    if isinstance(settings, TrainSettings) and settings.init_from == REQUIRED and settings.ckpt_path is None:
        raise UserError("`init_from` has no value: this experiment starts from weights, give init_from=<checkpoint>.")
