"""Check of every byte of a packed file, its graph and its plans."""

from dataclasses import dataclass
from pathlib import Path

from bnn_lightning.deploy.validate.integrity import verify_file
from bnn_lightning.utils.text import number_of
from bnn_lightning.workflows.errors import UserError, as_user_error
from bnn_lightning.workflows.packed_file import packed_path
from bnn_lightning.workflows.settings import VerifySettings, make_settings


@dataclass(frozen=True)
class Verified:
    """A packed file that is whole.

    Attributes:
        path: The file.
        size: Bytes that were checked.
        nodes: Nodes of its graph.
        constants: Tensors of its graph.
        plans: Execution plans that lie in it.
    """

    path: Path
    size: int
    nodes: int
    constants: int
    plans: int

    def __repr__(self) -> str:
        plans = number_of(self.plans, "plan") if self.plans else "no plan"
        graph = f"{number_of(self.nodes, 'node')}, {number_of(self.constants, 'constant')}"
        return f"{self.path}: whole ({self.size:,} bytes, {graph}, {plans})"


def verify(packed: str | Path) -> Verified:
    """Check a packed file.

    Args:
        packed: The file, or a name of the zoo.

    Raises:
        UserError: There is no such file, or something of it does not hold.
    """
    path = packed_path(make_settings(VerifySettings, "verify", packed=packed).packed)
    with as_user_error():
        if not path.exists():
            raise UserError(f"`packed`: there is no file {path}.")
        found = verify_file(path)
    return Verified(path, found.size, found.nodes, found.constants, found.plans)
