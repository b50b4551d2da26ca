"""A packed network as a program of torch.export."""

from pathlib import Path

import torch
from torch._dynamo.exc import TorchDynamoException
from torch.export import Dim

from bnn_lightning.deploy.export.formats import Written
from bnn_lightning.deploy.export.onnx import first_line
from bnn_lightning.deploy.frontend.any_number import export_for_any_number
from bnn_lightning.deploy.frontend.capture import TRACING_ERRORS
from bnn_lightning.deploy.frontend.pack import example_images
from bnn_lightning.deploy.frontend.state import kept_state
from bnn_lightning.deploy.runtime.packed_network import PackedNetwork
from bnn_lightning.utils.files import replacing


class TorchProgramError(ValueError):
    """A network that torch cannot export, or exports as another one."""


def write_torch_program(packed: PackedNetwork, out: str | Path) -> Written:
    """Write a program of torch.export that takes any number of images, and compare it with the network.

    Args:
        packed: From `pack`.
        out: The file.

    Raises:
        TorchProgramError: torch cannot export the network, or its program gives other logits.
        OSError: The file cannot be written.
    """
    images = example_images(packed.network, 2)
    try:
        with replacing(out) as made:
            export_for_any_number(packed, images)  # which refuses; its program would ask for more than one image
            with kept_state(packed):
                program = torch.export.export(packed, (images,), dynamic_shapes=({0: Dim.AUTO},))
            torch.export.save(program, made)
            with torch.no_grad():
                loaded = torch.export.load(made).module()
                same = all(torch.equal(loaded(some), packed.run_layers(some)) for some in (images, images[:1]))
            if not same:
                raise TorchProgramError("the program that torch exports gives other logits than the network.")
    except (*TRACING_ERRORS, TorchDynamoException) as error:
        if isinstance(error, TorchProgramError):
            raise
        raise TorchProgramError(f"torch cannot export the network: {first_line(error)}") from error
    size = Path(out).stat().st_size
    remarks = "images in [0, 1]; import bnn_lightning.deploy.frontend.torch_library before torch.export.load"
    return Written(size, f"written: {out} ({size:,} bytes; {remarks})")
