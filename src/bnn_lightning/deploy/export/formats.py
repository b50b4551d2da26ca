"""The formats of `bnn export`: one row each. Command line, settings, help and the workflow read this table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Written:
    """Result of a writer.

    Attributes:
        size: Bytes of the file, or of all files of a folder.
        text: Description for the user, with the names of the files.
    """

    size: int
    text: str


@dataclass(frozen=True)
class Format:
    """A format of `bnn export`.

    Attributes:
        name: Value of `format`.
        suffix: Ending of `out`, and of the name that stands for it where none is given.
        help: Description for `bnn export --help`.
        source: Input of the writer: "file", the path of a packed file; "layers", the packed network as torch traces it;
            "network", the network that was trained.
        write: Called with the source and `out`, returns `Written`; that of a "network" returns None.
        files: Returns the files that are written for `out`.
        folder: Whether `out` is a folder.
        check_out: Called with `out` before the work; raises ValueError for a path that the format cannot take.
        check_file: Called with the path of a packed file before the comparison; raises ValueError for a network that
            the format cannot hold.
        rounds: Whether it holds `rest=int8` and `stem=u8`.
        next_step: Command for the file, printed at the end; `{path}` is `out`.
    """

    name: str
    suffix: str
    help: str
    source: Literal["file", "layers", "network"]
    write: Callable[..., Any]
    files: Callable[[Path], Sequence[Path]] = lambda out: [out]
    folder: bool = False
    check_out: Callable[[Path], None] = lambda out: None
    check_file: Callable[[Path], object] = lambda file: None
    rounds: bool = False
    next_step: str = ""


def _in(module: str, function: str) -> Callable[..., Any]:
    """Return a function of a module of this package, which is imported at the first call: settings need no torch."""

    def call(*arguments: Any, **options: Any) -> Any:
        return getattr(import_module(f"{__package__}.{module}"), function)(*arguments, **options)

    return call


_ROWS = (
    Format(
        "packed",
        ".bnn",
        "one file of a bit a weight, for Python, C and browsers",
        "file",
        _in("packed", "write_packed"),
        rounds=True,
        next_step="bnn predict packed={path} images=FOLDER",
    ),
    Format(
        "torch",
        ".pt2",
        "a torch.export program that calls the packed kernels",
        "layers",
        _in("torch_program", "write_torch_program"),
    ),
    Format(
        "onnx",
        ".onnx",
        "floats for other runtimes, compared in onnxruntime",
        "network",
        _in("onnx", "write_onnx"),
    ),
    Format(
        "c",
        ".c",
        "net.c and net.h, C99 for microcontrollers",
        "file",
        _in("c99", "write_c99"),
        files=lambda out: [out, out.with_suffix(".h")],
        check_out=_in("c99_text", "check_out"),
        check_file=_in("c99", "to_c99"),
    ),
    Format(
        "header",
        ".h",
        "the packed file as a C header, to build into a program with libbnn",
        "file",
        _in("header", "write_header"),
        check_out=_in("c99_text", "check_out"),
        check_file=_in("header", "check_file"),
        rounds=True,
    ),
    Format(
        "web",
        ".web",
        "a folder: a web page that draws, or takes a picture, and classifies",
        "file",
        _in("web", "write_page"),
        files=_in("web", "files_of"),
        folder=True,
        check_out=_in("web", "check_folder"),
        check_file=_in("web", "check_network"),
        rounds=True,
        next_step="python -m http.server -d {path}    # then open http://localhost:8000",
    ),
)
FORMATS = {row.name: row for row in _ROWS}


def help_text() -> str:
    """Return the formats, a line each."""
    width = max(map(len, FORMATS))
    return "\n".join(f"format={row.name:{width}}  {row.suffix:5}  {row.help}" for row in _ROWS)
