"""Table of all networks of the zoo."""

from bnn_lightning.utils.text import text_table
from bnn_lightning.zoo.receipts import Receipt, names, receipt

_HEAD = ("name", "network", "data", "top-1", "packed bytes", "weights bytes", "in the package")


def describe() -> str:
    """Return one table of all networks, and how a name is used."""
    rows = [_HEAD, *(_row(receipt(name)) for name in names())]
    use = "bnn predict packed=zoo:NAME images=FOLDER\nbnn train init_from=zoo:NAME ...    needs the weights"
    return "\n".join([*text_table(rows), "", use])


def _row(receipt: Receipt) -> tuple[str, ...]:
    sizes = [f"{file.size:,}" for file in receipt.files.values()]
    here = ", ".join(kind for kind, file in receipt.files.items() if file.in_wheel)
    return (receipt.name, receipt.network, receipt.data, f"{receipt.accuracy:.2f} %", *sizes, here or "nothing")
