"""`bnn zoo`: list the networks that come along."""

import argparse
import sys
from collections.abc import Sequence

from bnn_lightning import zoo
from bnn_lightning.utils.text import text_table
from bnn_lightning.zoo.receipts import Receipt

_HEAD = ("name", "network", "data", "top-1", "packed bytes", "weights bytes", "in the package")


def main(prefix: Sequence[str] = ()) -> None:
    """Print the table.

    Args:
        prefix: Words of `sys.argv` before our own: the verb.
    """
    given = argparse.ArgumentParser(prog="bnn zoo", description="The networks that come along, by name.")
    given.parse_args(sys.argv[1 + len(prefix) :])
    print(zoo_text())


def zoo_text() -> str:
    """Return one table of all networks, and how a name is used."""
    rows = [_HEAD, *(_row(zoo.receipt(name)) for name in zoo.names())]
    use = "bnn predict packed=zoo:NAME images=FOLDER\nbnn train init_from=zoo:NAME ...    needs the weights"
    return "\n".join([*text_table(rows), "", use])


def _row(receipt: Receipt) -> tuple[str, ...]:
    sizes = [f"{file.size:,}" for file in receipt.files.values()]
    here = ", ".join(kind for kind, file in receipt.files.items() if file.in_wheel)
    return (receipt.name, receipt.network, receipt.data, f"{receipt.accuracy:.2f} %", *sizes, here or "nothing")
