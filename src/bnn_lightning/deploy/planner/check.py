"""The verifier on whole plans: it runs once, when a plan is made or read."""

import numpy as np

from bnn_lightning.deploy.kernels.call import KernelCall, Region
from bnn_lightning.deploy.kernels.derive import verify_derived
from bnn_lightning.deploy.kernels.verify import CallError, Memory, verify
from bnn_lightning.deploy.planner.plan import Plan


def verify_plan(plan: Plan, most: int) -> None:
    """Check that every kernel call stays within the regions of a context, for every number of images up to the most.

    Sizes of memory and what calls use of it grow with the number of images by the same law, or by one that is a
    product with it: what holds for one image and for the most holds in between.

    Args:
        plan: The plan.
        most: Most images of a context.

    Raises:
        CallError: A call leaves its memory.
    """
    verify_derived(plan.derived, len(plan.constants), plan.derived_size)
    for images in (1, most):
        memory = memory_of(plan, images)
        for fill in plan.fills:
            begin, size = fill.address.at(images), fill.size.at(images)
            if fill.address.region != Region.SIGNS or not 0 <= begin <= begin + size <= memory.sizes[Region.SIGNS]:
                raise CallError("A fill does not lie in the signs.")
            if not fill.pattern or size % len(fill.pattern):
                raise CallError(f"A fill of {size} bytes must be a whole number of patterns of {len(fill.pattern)}.")
        for call in plan.calls:
            if isinstance(call, KernelCall):
                verify(call, memory)


def memory_of(plan: Plan, images: int) -> Memory:
    """Return the memory of a context of a plan."""
    channels, height, width = plan.in_shape
    constants = np.frombuffer(plan.constants, np.uint8)
    sizes = {
        Region.CONSTANTS: constants.size,
        Region.DERIVED: plan.derived_size,
        Region.ARENA: plan.arena.at(images),
        Region.SIGNS: plan.signs.at(images),
        Region.INPUT: images * channels * height * width * (1 if plan.takes_bytes else 4),
        Region.OUTPUT: 4 * images * plan.num_classes,
    }
    return Memory(sizes, images, {Region.CONSTANTS: constants})
