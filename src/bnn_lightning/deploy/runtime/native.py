"""Packed networks without torch: the C library of the engine (csrc/bnn.h), by ctypes and numpy.

This file is also `bnn_runtime.native` of the distribution bnn-runtime, and imports nothing else of this package but
what lies beside it there.
"""

import ctypes
import errno
import os
import platform
import stat
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from .contexts import Contexts

Array = NDArray[Any]

_SUFFIXES = {"Windows": ".dll", "Darwin": ".dylib"}
LIBRARY = Path(__file__).parent / "_lib" / f"libbnn{_SUFFIXES.get(platform.system(), '.so')}"
MOST_IMAGES = 1 << 20  # of a call
_FILE, _MEMORY, _ARGUMENT, _PROCESSOR = 1, 5, 6, 7  # of bnn_status


class RuntimeFileError(ValueError):
    """A file is no packed network, is damaged, or cannot be run here."""


class _Error(ctypes.Structure):
    _fields_ = [("status", ctypes.c_int), ("text", ctypes.c_char * 252)]


class _Facts(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("channels", "height", "width", "classes")),
        *((name, ctypes.c_int64) for name in ("has_names", "has_preparation", "calls")),
        *((name, ctypes.c_char_p) for name in ("name", "kernels")),
    ]


class _Picture(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_int64) for name in ("width", "height", "channels")), ("pixels", ctypes.c_void_p)]


@dataclass(frozen=True)
class Facts:
    """Facts of a network.

    Attributes:
        name: Name of the network.
        shape: Channels, height and width of an image.
        num_classes: Logits an image.
        class_names: One a class; empty where the file has none.
        has_preparation: Whether the file says how pictures are prepared.
        num_calls: Kernel calls of a run.
        kernels: Instruction set in use.
    """

    name: str
    shape: tuple[int, int, int]
    num_classes: int
    class_names: tuple[str, ...]
    has_preparation: bool
    num_calls: int
    kernels: str


@cache
def library() -> ctypes.CDLL:
    """Load the C library.

    Raises:
        OSError: It was not built for this machine.
    """
    found = ctypes.CDLL(str(LIBRARY))
    pointer, number, error = ctypes.c_void_p, ctypes.c_int64, ctypes.POINTER(_Error)
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "bnn_open": (ctypes.c_int, [ctypes.c_char_p, ctypes.POINTER(pointer), error]),
        "bnn_open_memory": (ctypes.c_int, [pointer, ctypes.c_size_t, ctypes.POINTER(pointer), error]),
        "bnn_close": (None, [pointer]),
        "bnn_describe": (ctypes.POINTER(_Facts), [pointer]),
        "bnn_class_name": (ctypes.c_char_p, [pointer, number]),
        "bnn_context_open": (ctypes.c_int, [pointer, number, ctypes.c_int, ctypes.POINTER(pointer), error]),
        "bnn_context_close": (None, [pointer]),
        "bnn_run_bytes": (ctypes.c_int, [pointer, pointer, number, pointer, error]),
        "bnn_run_floats": (ctypes.c_int, [pointer, pointer, number, pointer, error]),
        "bnn_prepare": (ctypes.c_int, [pointer, ctypes.POINTER(_Picture), pointer, error]),
        "bnn_picture_open": (ctypes.c_int, [ctypes.c_char_p, ctypes.POINTER(_Picture), error]),
        "bnn_picture_close": (None, [ctypes.POINTER(_Picture)]),
        "bnn_open_sections": (
            ctypes.c_int,
            [pointer, ctypes.c_size_t, pointer, ctypes.c_size_t, ctypes.c_int, ctypes.POINTER(pointer), error],
        ),
        "bnn_native_calls": (number, [pointer, ctypes.c_int]),
        "bnn_context_threads": (None, [pointer, pointer, number, pointer]),
        "bnn_context_place": (ctypes.c_int, [pointer, ctypes.c_int, pointer, number, pointer, error]),
        "bnn_context_run": (ctypes.c_int, [pointer, ctypes.c_int, number, number, error]),
        "bnn_context_arena": (pointer, [pointer]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


def _fail(error: _Error) -> NoReturn:
    text = error.text.decode("utf-8", "replace")
    if error.status == _MEMORY:
        raise MemoryError(text)
    if error.status in (_FILE, _PROCESSOR):
        raise OSError(text)
    if error.status == _ARGUMENT:
        raise ValueError(text)
    raise RuntimeFileError(text)


def _path_of(path: str | Path) -> bytes:
    encoded = os.fsencode(path)
    if b"\0" in encoded:  # where C would end it
        raise ValueError(f"A path must not hold a zero byte, got {str(path)!r}.")
    return encoded


def _fail_to_open(path: str | Path, error: _Error) -> NoReturn:
    """Raise what is wrong with a file: as Python's `open` does where the system refuses it."""
    if error.status == _FILE:
        if stat.S_ISREG(os.stat(path).st_mode):
            Path(path).open("rb").close()
        elif Path(path).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    _fail(error)


def _close_with(owner: object, close: Any, handle: ctypes.c_void_p) -> None:
    """Close a handle of the library with its owner, but not at the end of the process: other threads may compute."""
    weakref.finalize(owner, close, handle).atexit = False


class _Handle:
    """A network that the library has opened, closed when nobody holds it any more."""

    def __init__(self, source: str | Path | bytes) -> None:
        self.value, error = ctypes.c_void_p(), _Error()
        network = ctypes.byref(self.value)
        if isinstance(source, bytes):
            self._data = np.frombuffer(source, np.uint8)  # stays as long as the network
            if library().bnn_open_memory(self._data.ctypes.data, len(source), network, ctypes.byref(error)):
                _fail(error)
        elif library().bnn_open(_path_of(source), network, ctypes.byref(error)):
            _fail_to_open(source, error)
        _close_with(self, library().bnn_close, self.value)


class _Context:
    """Memory that the library allocated for calls of a network."""

    def __init__(self, network: _Handle, images: int, threads: int) -> None:
        self.most, self.plan, self.needed, error = images, None, 0, _Error()
        self.handle, self._network = ctypes.c_void_p(), network  # which stays open
        handle = ctypes.byref(self.handle)
        if library().bnn_context_open(network.value, images, threads, handle, ctypes.byref(error)):
            _fail(error)
        _close_with(self, library().bnn_context_close, self.handle)


class Network:
    """A packed network, from images to logits. Threads may share it.

    It keeps memory for the next calls; `close`, or the end of a `with` block, frees it.

    Args:
        source: Path of a file, or its bytes.
        threads: Threads of a call; 0 is one a processor.

    Raises:
        RuntimeFileError: The file is damaged, of another version, or has operations that need torch.
        OSError: The file cannot be opened, or this processor has no kernels.
    """

    def __init__(self, source: str | Path | bytes, *, threads: int = 1) -> None:
        if not 0 <= threads <= 256:
            raise ValueError(f"`threads` must be from 0 to 256, got {threads}.")
        self.threads = threads
        self._handle: _Handle | None = _Handle(source)
        self.facts = self._describe()
        self._contexts, self._process = Contexts[_Context](), os.getpid()

    def close(self) -> None:
        """Free the memory of calls, and close the file, once the calls that run are done. Later calls are refused."""
        self._handle, self._contexts = None, Contexts()  # calls that run give their memory to the former ones

    def __enter__(self) -> "Network":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _opened(self) -> _Handle:
        if self._handle is None:
            raise ValueError(f"The network {self.facts.name} is closed.")
        return self._handle

    def _describe(self) -> Facts:
        network = self._opened().value
        facts = library().bnn_describe(network).contents
        number = facts.classes if facts.has_names else 0
        names = (library().bnn_class_name(network, place) for place in range(number))
        return Facts(
            name=facts.name.decode(),
            shape=(facts.channels, facts.height, facts.width),
            num_classes=facts.classes,
            class_names=tuple(name.decode() for name in names),
            has_preparation=bool(facts.has_preparation),
            num_calls=facts.calls,
            kernels=facts.kernels.decode(),
        )

    def __call__(self, images: Array) -> NDArray[np.float32]:
        """Compute logits, (N, classes).

        Args:
            images: Shape (N, C, H, W) of the network's size: uint8, or floating in [0, 1].

        Raises:
            TypeError: No array of numbers.
            ValueError: Another shape or type; NaN, infinite values, or values beyond those of images; it is closed.
        """
        contexts, network, images = self._own_contexts(), self._opened(), self._checked(images)
        number, error = len(images), _Error()
        logits = np.empty((number, self.facts.num_classes), np.float32)
        if not number:
            return logits
        run: Callable[..., int] = library().bnn_run_bytes if images.dtype == np.uint8 else library().bnn_run_floats
        context = contexts.take(number) or _Context(network, number, self.threads)
        failed = run(context.handle, images.ctypes.data, number, logits.ctypes.data, ctypes.byref(error))
        contexts.give(context, number)
        if failed:
            _fail(error)
        return logits

    def _checked(self, images: Array) -> Array:
        if not isinstance(images, np.ndarray):
            raise TypeError(f"Images must be a numpy array, got {type(images).__name__}.")
        if images.ndim != 4 or images.shape[1:] != self.facts.shape:
            raise ValueError(f"Images must have the shape {('N', *self.facts.shape)}, got {images.shape}.")
        if len(images) > MOST_IMAGES:
            raise ValueError(f"A call takes at most {MOST_IMAGES} images, got {len(images)}.")
        if images.dtype == np.uint8:
            return np.ascontiguousarray(images)
        if not np.issubdtype(images.dtype, np.floating):
            raise ValueError(f"Images must be uint8, or floating in [0, 1], got {images.dtype}.")
        with np.errstate(over="ignore"):  # the library refuses what is infinite then
            return np.require(images, np.float32, ["C", "A"])  # a view of a buffer may begin at any byte

    def _own_contexts(self) -> Contexts[_Context]:
        if self._process != os.getpid():  # forked: the parent's threads may have held the lock
            self._contexts, self._process = Contexts(), os.getpid()
        return self._contexts

    def prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Prepare a picture as evaluation did: scale it to cover a box, cut out the middle, add a border.

        Args:
            pixels: Shape (height, width), (height, width, 1) or (height, width, 3); gray or RGB.

        Returns:
            An image, (C, H, W).

        Raises:
            TypeError: No array.
            ValueError: Another shape or type, or the file does not say how pictures are prepared.
        """
        if not isinstance(pixels, np.ndarray):
            raise TypeError(f"A picture must be a numpy array, got {type(pixels).__name__}: numpy.asarray(picture).")
        channels = pixels.shape[2] if pixels.ndim == 3 else 1
        if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or channels not in (1, 3) or not pixels.size:
            got = f"{pixels.dtype} {pixels.shape}"
            raise ValueError(f"A picture must be uint8 (height, width) or (height, width, 1 or 3), got {got}.")
        pixels = np.ascontiguousarray(pixels)
        image, error = np.empty(self.facts.shape, np.uint8), _Error()
        picture = _Picture(pixels.shape[1], pixels.shape[0], channels, pixels.ctypes.data)
        if library().bnn_prepare(self._opened().value, ctypes.byref(picture), image.ctypes.data, ctypes.byref(error)):
            _fail(error)
        return image

    def __repr__(self) -> str:
        return f"Network({self.facts.name}, {'x'.join(map(str, self.facts.shape))})"


class Sections:
    """A plan section and its constants, opened for a program that computes some calls itself.

    Args:
        plan: The section.
        constants: Bytes of the constants; a copy is made unless they begin at a multiple of 64.
        kernels: Number of the instruction set in the library.

    Raises:
        RuntimeFileError: A call leaves its memory, or the section is of another version.
    """

    def __init__(self, plan: bytes, constants: Array, kernels: int) -> None:
        self.handle, error = ctypes.c_void_p(), _Error()
        self._held = plan, constants  # as long as the sections are open
        place, handle = (constants.ctypes.data, constants.nbytes), ctypes.byref(self.handle)
        if library().bnn_open_sections(plan, len(plan), *place, kernels, handle, ctypes.byref(error)):
            _fail(error)
        _close_with(self, library().bnn_close, self.handle)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        facts = library().bnn_describe(self.handle).contents
        return facts.channels, facts.height, facts.width

    @cached_property
    def num_classes(self) -> int:
        """Logits an image."""
        return int(library().bnn_describe(self.handle).contents.classes)

    def native_calls(self, *, takes_bytes: bool) -> int:
        """Return the number of calls for images of a type; 0 where there is no plan for these, or torch has a part."""
        return int(library().bnn_native_calls(self.handle, takes_bytes))


class Rows:
    """The memory of one run of `Sections` at a time, whose calls run by rows.

    Args:
        sections: Sections of the plan that runs.
        images: Most images of a run.
        takes_bytes: Whether these are bytes.
    """

    def __init__(self, sections: Sections, images: int, *, takes_bytes: bool) -> None:
        self._sections, self._bytes, self.handle, error = sections, int(takes_bytes), ctypes.c_void_p(), _Error()
        handle = ctypes.byref(self.handle)
        if library().bnn_context_open(sections.handle, images, 1, handle, ctypes.byref(error)):
            _fail(error)
        _close_with(self, library().bnn_context_close, self.handle)
        self._arena = int(library().bnn_context_arena(self.handle))

    def place(self, images: int, number: int, logits: int) -> None:
        """Set the number of images, and the addresses of images and logits."""
        error = _Error()
        if library().bnn_context_place(self.handle, self._bytes, images, number, logits, ctypes.byref(error)):
            _fail(error)

    def use_threads(self, parallel_for: int | None, threads: int, give_way: int | None) -> None:
        """Set the parallel loop, the number of threads, and the function that gives the processor away, by address."""
        library().bnn_context_threads(self.handle, parallel_for, threads, give_way)

    def run(self, begin: int, end: int) -> None:
        """Run the calls from `begin` to before `end`."""
        error = _Error()
        if library().bnn_context_run(self.handle, self._bytes, begin, end, ctypes.byref(error)):
            _fail(error)

    def memory(self, offset: int, size: int) -> NDArray[np.uint8]:
        """Return bytes of the arena, without a copy; valid while this object lives."""
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self._arena + offset))


def read_picture(path: str | Path) -> NDArray[np.uint8]:
    """Read a PGM or PPM file: (height, width, 1 or 3).

    Raises:
        RuntimeFileError: It is damaged, or no such file.
        OSError: It cannot be opened.
    """
    picture, error = _Picture(), _Error()
    if library().bnn_picture_open(_path_of(path), ctypes.byref(picture), ctypes.byref(error)):
        _fail_to_open(path, error)
    shape = (picture.height, picture.width, picture.channels)
    pixels = np.frombuffer(ctypes.string_at(picture.pixels, shape[0] * shape[1] * shape[2]), np.uint8).reshape(shape)
    library().bnn_picture_close(ctypes.byref(picture))
    return pixels


def load(source: str | Path | bytes, *, threads: int = 1) -> Network:
    """Load a packed network: images in, logits out.

    Args:
        source: A file that `bnn export` wrote, or its bytes.
        threads: Threads of a call; 0 is one a processor.

    Raises:
        RuntimeFileError: It is damaged, of another version, or has operations that need torch.
        OSError: It cannot be opened.
    """
    return Network(source, threads=threads)
