"""Signs and surrogate gradients on a CPU in one compiled pass; `functional.sign` says what they compute.

`None` from a function means that torch has to compute it: on other devices, in other dtypes, for tensors that a
compiler, a tracer or `torch.func` sees, and where no library was built. `BNN_KERNEL=torch` leaves the libraries out.
"""

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from bnn_lightning.utils.native import choose_library, library_file, parallel_for

FOLDER = Path(__file__).parent / "_kernels"
_VERSION = 1  # of the structure below; `bnn_version` of surrogates.c
_SUFFIXES = {torch.float32: "f32", torch.bfloat16: "bf16"}


class _Surrogate(ctypes.Structure):
    """`struct bnn_surrogate` of surrogates.c."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("x", "grad", "inside", "out")],
        *[(name, ctypes.c_float) for name in ("a", "b")],
    ]


@cache
def _library() -> ctypes.CDLL | None:
    name, _ = choose_library(FOLDER)
    if name is None:
        return None
    library = ctypes.CDLL(str(library_file(FOLDER, name)))
    library.bnn_version.restype = ctypes.c_int64
    return library if library.bnn_version() == _VERSION else None


def _run(operation: str, like: Tensor, out: Tensor, *, a: float = 0.0, b: float = 0.0, **tensors: Tensor) -> None:
    library = _library()
    assert library is not None
    pointers = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    job = _Surrogate(**pointers, out=out.data_ptr(), a=a, b=b)
    function = getattr(library, f"bnn_{operation}_{_SUFFIXES[like.dtype]}")
    function(ctypes.byref(job), ctypes.c_int64(like.numel()), ctypes.c_void_p(parallel_for()))


def _takes(x: Tensor) -> bool:
    """Whether `x` is a plain dense map whose memory may be read, and a library is there."""
    return (
        not is_seen()
        and type(x) in (Tensor, torch.nn.Parameter)
        and x.is_cpu
        and torch._C._has_storage(x)  # a batch of gradients (`is_grads_batched`) has none
        and x.dtype in _SUFFIXES
        and (x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)))
        and _library() is not None
    )


def is_seen() -> bool:
    """Whether a tracer, a dispatch mode or a transform of `torch.func` has to see every operation."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    )


def _takes_gradient(grad: Tensor, like: Tensor) -> bool:
    # In double backward the gradient's own derivative is wanted: torch's operations have one.
    return _takes(like) and not torch.is_grad_enabled() and grad.stride() == like.stride() and _takes(grad)


def sign(x: Tensor) -> Tensor | None:
    """Compute `functional.sign`."""
    if not _takes(x):
        return None
    out = torch.empty_like(x)
    _run("sign", x, out, x=x)
    return out


def sign_ste(x: Tensor, clip: float) -> tuple[Tensor, Tensor] | None:
    """Compute the sign, and in int8 whether `|x| <= clip`."""
    if not _takes(x):
        return None
    out, inside = torch.empty_like(x), torch.empty_like(x, dtype=torch.int8)
    _run("ste", x, out, x=x, inside=inside, a=clip)
    return out, inside


def ste_gradient(grad: Tensor, inside: Tensor) -> Tensor | None:
    """Compute `grad` where `inside` is 1, else 0."""
    if not (inside.stride() == grad.stride() and inside.dtype == torch.int8 and _takes_gradient(grad, grad)):
        return None
    out = torch.empty_like(grad)
    _run("ste_gradient", grad, out, grad=grad, inside=inside)
    return out


def ede_gradient(grad: Tensor, x: Tensor, t: Tensor) -> Tensor | None:
    """Compute `grad` times the derivative of EDE at `x` for the sharpness `t`."""
    if not (grad.dtype == x.dtype and t.is_cpu and _takes_gradient(grad, x)):
        return None
    sharpness, out = float(t), torch.empty_like(grad)
    _run("ede_gradient", grad, out, grad=grad, x=x, a=2 * sharpness, b=4 * max(sharpness, 1.0))
    return out


def approx_gradient(grad: Tensor, x: Tensor) -> Tensor | None:
    """Compute `grad` times the derivative of ApproxSign at `x`."""
    if not (grad.dtype == x.dtype and _takes_gradient(grad, x)):
        return None
    out = torch.empty_like(grad)
    _run("approx_gradient", grad, out, grad=grad, x=x)
    return out
