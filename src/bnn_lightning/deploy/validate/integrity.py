"""Every byte of a packed file checked: checksums, graph, and plans."""

from dataclasses import dataclass
from pathlib import Path

from bnn_lightning.deploy.format.container import PackedFileError, read_container
from bnn_lightning.deploy.format.plan_section import PlanSection, is_current
from bnn_lightning.deploy.kernels.verify import CallError
from bnn_lightning.deploy.planner.check import verify_plan
from bnn_lightning.deploy.runtime.native import MOST_IMAGES
from bnn_lightning.deploy.runtime.network import load


@dataclass(frozen=True)
class Integrity:
    """Result of checking a packed file.

    Attributes:
        size: Bytes of the file.
        nodes: Nodes of the graph.
        constants: Constants.
        plans: Plans; none where they are of another version, which are not used.
    """

    size: int
    nodes: int
    constants: int
    plans: int


def verify_file(path: str | Path) -> Integrity:
    """Check all of a packed file: SHA-256 and CRCs, the types of the graph, and that plans stay in their memory.

    Raises:
        PackedFileError: Says what does not hold.
        OSError: It cannot be opened.
    """
    container = read_container(path, whole=True)
    network = load(path)
    plans = 0
    if is_current(container.plan):
        try:
            section = PlanSection.from_bytes(container.plan, container.data)
            for plan in section.plans:
                verify_plan(plan, MOST_IMAGES)
        except CallError as error:
            raise PackedFileError(f"A plan of `{path}` leaves its memory: {error}") from error
        except ValueError as error:
            raise PackedFileError(f"The plans of `{path}` cannot be read: {error}") from error
        plans = len(section.plans)
    return Integrity(Path(path).stat().st_size, len(network.graph.nodes), len(container.entries), plans)
