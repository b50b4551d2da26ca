"""A packed network as a web page: three static files that classify pictures in the reader's browser."""

import shutil
from contextlib import ExitStack
from pathlib import Path

from bnn_lightning.deploy.export.formats import Written
from bnn_lightning.deploy.format.container import read_container
from bnn_lightning.deploy.format.info import PackedInfo
from bnn_lightning.deploy.runtime import native
from bnn_lightning.utils.files import replacing

PAGE = Path(__file__).parent / "web" / "index.html"
MODULE = Path(__file__).parent / "web" / "_lib" / "bnn.wasm"
FILES = ("index.html", "bnn.wasm", "model.bnn")
_MARK = b'<meta name="generator" content="bnn-lightning">'


class WebError(ValueError):
    """A network that a page cannot run, a folder that holds something else, or a missing WebAssembly module."""


def write_web(packed: str | Path, folder: str | Path) -> int:
    """Write a page that classifies drawings and pictures with a packed network.

    The files are `index.html`, `bnn.wasm` (the C library of the engine) and `model.bnn`. Any static web server can
    serve them. The page makes no other request, and prepares pictures as the packed file says.

    Args:
        packed: A packed file.
        folder: Folder of the page, in a folder that exists. Files of an earlier page are replaced.

    Returns:
        Bytes of the three files.

    Raises:
        WebError: See `check_folder` and `check_network`.
        PackedFileError: The file is damaged.
        OSError: Something cannot be read or written.
    """
    folder = Path(folder)
    check_folder(folder)
    check_network(packed)
    files = dict(zip(FILES, (PAGE.read_bytes(), MODULE.read_bytes(), Path(packed).read_bytes()), strict=True))
    with ExitStack() as undo:
        if not folder.exists():
            folder.mkdir()
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
        with ExitStack() as stack:
            for name, data in files.items():
                stack.enter_context(replacing(folder / name)).write_bytes(data)
        undo.pop_all()
    return sum(map(len, files.values()))


def files_of(folder: Path) -> list[Path]:
    """Return the files of a page."""
    return [folder / name for name in FILES]


def write_page(packed: Path, out: Path) -> Written:
    """Write a page as `write_web` does, and describe it."""
    size = write_web(packed, out)
    return Written(
        size, f"written: {out}/index.html, bnn.wasm and model.bnn ({size:,} bytes), for any static web server"
    )


def check_folder(folder: str | Path) -> None:
    """Refuse a folder that a page cannot be written to without a loss, and an installation without the module.

    Raises:
        WebError: `folder` is a file, or holds other files than those of an earlier page; or there is no module.
    """
    folder = Path(folder)
    if not MODULE.is_file():
        raise WebError(
            "The WebAssembly module was not built when bnn-lightning was installed. Its build needs ziglang: "
            "`pip install ziglang`, then install bnn-lightning again."
        )
    if folder.exists() and not folder.is_dir():
        raise WebError(f"{folder} is a file, and format=web writes a folder.")
    held = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    page = folder / FILES[0]
    ours = page.is_file() and _MARK in page.read_bytes()
    if other := [name for name in held if name not in FILES or not ours]:
        raise WebError(f"{folder} holds other files ({', '.join(other[:3])}): name a new or an empty folder.")


def check_network(packed: str | Path) -> None:
    """Refuse a network that a page cannot run.

    Raises:
        WebError: It has operations that need torch, or its file does not say how pictures are prepared.
        PackedFileError: The file is damaged.
    """
    info = PackedInfo.from_plain(read_container(packed).header.get("info"))
    if info.preparation is None:
        raise WebError(
            "The file does not say how pictures are prepared for this network, and a page has to know it: its data "
            "module needs a `preparation`."
        )
    if native.LIBRARY.exists():
        try:
            native.load(Path(packed))
        except native.RuntimeFileError as error:
            raise WebError(str(error)) from error
