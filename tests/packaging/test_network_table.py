"""The table of the page of networks says what the networks count."""

import json

import pytest

from tools.network_table import BEGIN, END, HEAD, MEASURED, PAGE, published, row, table

MEASUREMENTS = json.loads(MEASURED.read_text())


def lines() -> list[str]:
    return PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0].splitlines()


@pytest.mark.parametrize("name", ["quicknet", "resnet20"])
def test_the_row_of_a_network_is_counted_from_it(name: str) -> None:
    (found,) = (line for line in lines() if line.startswith(f"| `{name}` |"))
    assert found == f"| {' | '.join(row(name, published(), MEASUREMENTS))} |"


def test_measured_columns_say_when_and_where() -> None:
    for of in MEASUREMENTS.values():
        assert {"bytes", "version", "date"} <= set(of)
        assert ("ms" in of) == ("machine" in of)


@pytest.mark.slow
def test_the_table_is_that_of_all_networks() -> None:
    assert "\n".join(lines()) + "\n" == table(MEASUREMENTS)
    assert lines()[0].count("|") == len(HEAD) + 1
