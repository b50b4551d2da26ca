"""Verifier of plans: all reads and writes of a kernel call lie within the regions of memory that a context has.

rules.py holds the rules of the kernels in C: the elements that a field's address is followed to, the numbers that must
divide each other, and the sizes of the kernels' fixed arrays. runtime/csrc/rules.c holds the same.
"""

import ctypes

from bnn_lightning.deploy.kernels.abi import field_offsets
from bnn_lightning.deploy.kernels.call import Address, Count, KernelCall
from bnn_lightning.deploy.kernels.job import CallError, Job, Memory
from bnn_lightning.deploy.kernels.rules import RULES, may_grow

__all__ = ["CallError", "Memory", "verify"]


def verify(call: KernelCall, memory: Memory) -> None:
    """Check a kernel call before it runs.

    Args:
        call: Arguments of the kernel.
        memory: Memory that it may use.

    Raises:
        CallError: A read or a write would leave the memory, or the numbers of the call do not fit each other.

    Example:
        >>> from bnn_lightning.deploy.kernels.call import Region
        >>> call = KernelCall("pad", {"pixels": 2, "channels": 3, "inner": 1, "out": Address(Region.ARENA)})
        >>> verify(call, Memory({Region.ARENA: 24}, 1))
        >>> verify(call, Memory({Region.ARENA: 20}, 1))
        Traceback (most recent call last):
        bnn_lightning.deploy.kernels.job.CallError: `pad` of value 0: 24 bytes of `out` do not lie in the arena.
    """
    if call.kernel not in RULES:
        raise CallError(f"`{call.kernel}` is no kernel: there are {', '.join(RULES)}.")
    places = field_offsets(call.kernel)
    for name, value in call.fields.items():
        if name not in places:
            raise CallError(f"`{call.kernel}` of value {call.node}: it has no field `{name}`.")
        if isinstance(value, Address) != (places[name][1] is ctypes.c_void_p):
            raise CallError(f"`{call.kernel}` of value {call.node}: `{name}` cannot be {value}.")
        if isinstance(value, Count) and value.per_image and not may_grow(call.kernel, name):
            raise CallError(f"`{call.kernel}` of value {call.node}: `{name}` may not depend on the number of images.")
    RULES[call.kernel](Job(call, memory))
