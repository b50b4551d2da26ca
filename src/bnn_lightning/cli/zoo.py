"""`bnn zoo`: list the trained networks that come with the package."""

import argparse
import sys
from collections.abc import Sequence

from bnn_lightning import zoo


def main(prefix: Sequence[str]) -> None:
    """Print the table.

    Args:
        prefix: Words of `sys.argv` before our own: the verb.
    """
    parser = argparse.ArgumentParser(
        prog="bnn zoo", description="The trained networks that come with the package, by name."
    )
    parser.parse_args(sys.argv[1 + len(prefix) :])
    print(zoo.describe())
