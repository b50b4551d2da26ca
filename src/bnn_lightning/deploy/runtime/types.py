"""Types of a network's values, from runs on shapes alone with two numbers of images."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bnn_lightning.deploy.frontend.fresh import floats
from bnn_lightning.deploy.ir.graph import GraphError
from bnn_lightning.deploy.planner.typed_graph import Type

_DTYPES = {torch.float32: "f32", torch.int8: "i8", torch.int32: "i32", torch.int64: "i64"}
_IMAGES = (1, 2, 3, 5)


def types_of(
    run: Callable[[Tensor, Callable[[Tensor], None]], Tensor], shape: tuple[int, int, int]
) -> tuple[Type, ...]:
    """Return the types of images and results.

    Args:
        run: Runs a network node by node, and shows the result of each.
        shape: Of an image.

    Raises:
        GraphError: The network mixes images of a call.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    found: list[list[Tensor]] = []
    with FakeTensorMode(allow_non_fake_inputs=True):
        for number in _IMAGES:
            images = floats(number, *shape)
            found.append([images])
            run(images, found[-1].append)
    types = tuple(_type_of(place, values) for place, values in enumerate(zip(*found, strict=True)))
    if len(types[-1].shape) != 2 or types[-1].shape[0] != 1 or not types[-1].per_image or types[-1].dtype != "f32":
        raise GraphError(f"The output of a network must be (N, classes), not {types[-1]}.")
    return types


def _type_of(place: int, values: Sequence[Tensor]) -> Type:
    shapes = [tuple(value.shape) for value in values]
    dtype = _DTYPES.get(values[0].dtype)
    if dtype is not None and len(set(shapes)) == 1:
        return Type(shapes[0], False, dtype)
    first = [shape[0] if shape else 0 for shape in shapes]
    grows = first == [number * first[0] for number in _IMAGES] and len({shape[1:] for shape in shapes}) == 1
    if dtype is None or not grows:
        raise GraphError(f"The shape of value {place} does not grow with the number of images: {shapes[:2]}.")
    return Type(shapes[0], True, dtype)
