"""Programs of torch.export for any number of images: none that has fixed it, or branches on it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import FrameSummary

import torch
import torch.fx.experimental._config as config
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils._sympy.printers import PythonPrinter

from bnn_lightning.deploy.frontend.state import kept_state
from bnn_lightning.deploy.ir.graph import GraphError

_TORCH = str(Path(torch.__file__).parent) + os.sep
# Numbers of images at which a condition of torch must hold.
_NUMBERS = (*range(2, 34), 64, 1000, 4096, 1 << 20)


@contextmanager
def any_number() -> Iterator[None]:
    """Let torch trace sizes that may be 1, too: otherwise it decides `shape[0] == 1` without saying so."""
    with config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        yield


def export_for_any_number(network: nn.Module, example: Tensor) -> ExportedProgram:
    """Export a network for any number of images of one size.

    Args:
        network: Any network. It is left as it was, also where torch fails, which leaves tensors without values in it.
        example: Images, (N, C, H, W), N at least 2: torch takes a single one for a constant.

    Raises:
        GraphError: It computes otherwise for other numbers of images; names what Python asks of their number N.
    """
    with any_number(), kept_state(network):
        program = torch.export.export(network, (example,), dynamic_shapes=({0: Dim.AUTO},))
    _refuse_branches(program)
    return program


def _refuse_branches(program: ExportedProgram) -> None:
    placeholder = next(node for node in program.graph.nodes if node.name == program.graph_signature.user_inputs[0])
    for guard in placeholder.meta["val"].fake_mode.shape_env.guards:
        place = guard.sloc.framework_loc
        of_torch = isinstance(place, FrameSummary) and place.filename.startswith(_TORCH)
        condition = PythonPrinter().doprint(guard.expr)
        symbols = guard.expr.free_symbols
        for symbol in symbols:
            condition = condition.replace(str(symbol), "N")
        if of_torch and all(guard.expr.subs(dict.fromkeys(symbols, n)) == True for n in _NUMBERS):  # noqa: E712
            continue  # it asks whether it is one image, for which its operations mean the same
        if condition.startswith("N == "):
            raise GraphError("it fixes the number of images, as len(images) does: take images.shape[0].")
        where = f" ({place.filename}:{place.lineno})" if isinstance(place, FrameSummary) and not of_torch else ""
        raise GraphError(
            f"it asks whether {condition} of N images{where}, and may compute otherwise where not; but this is "
            "for any number of images: decide by their height and width alone."
        )
