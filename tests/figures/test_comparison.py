"""The table of published results holds together, and its points stand where its numbers say."""

import csv
from collections import Counter
from importlib.resources import files
from typing import Any

import pytest
import torch

pytest.importorskip("matplotlib", reason="needs the extra `visualize`")

from bnn_lightning.figures.comparison import (
    ComparedNetwork,
    accuracy_against_cost,
    comparison_table,
    counted,
    published,
)
from bnn_lightning.metrics import Profile, profile_network
from bnn_lightning.models import create_backbone, list_backbones

ROWS = list(csv.DictReader(files("bnn_lightning.figures").joinpath("published.csv").read_text("utf-8").splitlines()))


def test_every_row_has_a_source_and_stands_once() -> None:
    assert all(row["source"] for row in ROWS)
    assert {row["kind"] for row in ROWS} == {"binary", "int8", "float"}
    assert max(Counter((row["name"], row["data"]) for row in ROWS).values()) == 1
    assert {row["network"] for row in ROWS} - {""} <= set(list_backbones())


@pytest.mark.parametrize("row", [row for row in ROWS if row["ops_millions"]], ids=lambda row: row["name"])
def test_operations_are_what_their_products_sum_to(row: dict[str, str]) -> None:
    if not row["float_macs_m"]:
        pytest.skip("its source says the sum alone")
    eighth = row["kind"] == "int8" or "int8 rest" in row["name"]
    sum_of_products = float(row["binary_macs_g"] or 0) * 1000 / 64 + float(row["float_macs_m"]) / (8 if eighth else 1)
    # The sources round to two digits or three.
    assert float(row["ops_millions"]) == pytest.approx(sum_of_products, rel=0.025)


@pytest.mark.parametrize("name", ["reactnet_a", "bnext18"])
def test_published_costs_are_those_of_our_networks(name: str) -> None:
    with torch.device("meta"):
        network = create_backbone(name, num_classes=1000, in_channels=3, image_size=224)
    totals = profile_network(network, (3, 224, 224)).totals()
    (entry,) = (entry for entry in published("imagenet") if entry.network == name)
    assert entry.ops == pytest.approx(totals["ops"], rel=0.01)
    if entry.size is not None:  # MiB, or MB: sources seldom say which
        assert entry.size == pytest.approx(totals["size_bytes"] / 2**20, rel=0.06)


def test_published_of_one_data_set() -> None:
    assert {entry.data for entry in published("cifar10")} == {"cifar10"}
    assert len(published()) == len(ROWS)
    (best,) = (entry for entry in published("imagenet") if entry.name == "BNext-L")
    assert (best.top1, best.ops, best.size) == (80.57, 854e6, 106.1)
    with pytest.raises(ValueError, match=r"`data` must be one of \['cifar10', 'imagenet', 'mnist'\], got 'svhn'"):
        published("svhn")


def test_costs_that_no_source_states_are_counted() -> None:
    totals = {"ops": 1.5e6, "size_bytes": 46_000, "ace": 2e8}
    known = ComparedNetwork("known", 90.0, network="resnet20", ops=1e6, size=1.0, ace=1e6)
    unknown, other = (
        ComparedNetwork("unknown", 87.2, network="resnet20", size=0.5),
        ComparedNetwork("other", 80.0, network="mlp"),
    )
    filled = counted([known, unknown, other], {"resnet20": totals})
    assert filled[0] == known
    assert filled[2] == other
    assert (filled[1].ops, filled[1].size, filled[1].ace) == (1.5e6, 0.5, 2e8)
    assert filled[1].note == "ops, ace counted here"


ENTRIES = [
    ComparedNetwork("a", 60.0, family="f", ops=1e8, size=4.0),
    ComparedNetwork("b", 70.0, family="f", ops=2e8),
    ComparedNetwork("c", 71.0, kind="int8", size=2.0),
    ComparedNetwork("mine", 65.0, kind="ours", ops=1.5e8, size=3.0, latency=2.0),
]


def points(axes: Any) -> dict[str, list[tuple[float, float]]]:
    return {
        collection.get_label(): [tuple(map(float, point)) for point in collection.get_offsets()]
        for collection in axes.collections
    }


def test_points_stand_where_the_numbers_say() -> None:
    (axes,) = accuracy_against_cost(ENTRIES).axes
    assert points(axes) == {"binary, published": [(100.0, 60.0), (200.0, 70.0)], "measured here": [(150.0, 65.0)]}
    assert [list(line.get_ydata()) for line in axes.get_lines()] == [[60.0, 70.0]]
    assert {text.get_text() for text in axes.texts} == {"a", "b", "mine"}
    (axes,) = accuracy_against_cost(ENTRIES, cost="size").axes
    assert points(axes)["int8"] == [(2.0, 71.0)]
    (axes,) = accuracy_against_cost(ENTRIES, cost="latency", names=False).axes
    assert points(axes) == {"measured here": [(2.0, 65.0)]}
    assert not axes.texts


def test_names_of_a_crowd_are_apart_and_ours_is_there() -> None:
    crowd = [ComparedNetwork(f"network {i}", 65.0 + i / 100, ops=1e8 * (1 + i / 1000)) for i in range(40)]
    (axes,) = accuracy_against_cost(
        [*crowd, ComparedNetwork("mine", 65.2, kind="ours", ops=1.02e8), ComparedNetwork("far", 50.0, ops=1e7)]
    ).axes
    names = [text.get_text() for text in axes.texts]
    assert {"mine", "far"} <= set(names)
    assert len(names) < 20


def test_the_table_is_ordered_and_complete() -> None:
    header, rows = comparison_table(ENTRIES)
    assert [row[header.index("name")] for row in rows] == ["c", "b", "mine", "a"]
    assert rows[2][header.index("latency")] == 2.0


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(ValueError, match="No entry has a `latency`"):
        accuracy_against_cost(ENTRIES[:3], cost="latency")
    with pytest.raises(ValueError, match="`cost` must be one of"):
        accuracy_against_cost(ENTRIES, cost="money")  # type: ignore[arg-type]


def profiles() -> dict[str, Profile]:
    def profile(binary: bool) -> Profile:
        return profile_network(
            create_backbone("resnet20", num_classes=10, in_channels=3, image_size=32, width=4, binary=binary),
            (3, 32, 32),
        )

    return {"resnet20": profile(True), "float twin": profile(False)}


def test_bars_are_the_shares_of_the_profile() -> None:
    from bnn_lightning.figures.binarization import SHARES, binarization_bars, binarization_table

    found = profiles()
    totals = {name: profile.totals() for name, profile in found.items()}
    (axes,) = binarization_bars(totals).axes
    widths = [[bar.get_width() for bar in container] for container in axes.containers]
    assert widths == [[100 * totals[name][key] for name in totals] for key in SHARES]
    count = found["resnet20"].count
    assert widths[0] == pytest.approx([100 * count.binary_weights / count.parameters, 0.0])
    header, rows = binarization_table(totals)
    assert [row[0] for row in rows] == ["resnet20", "float twin"]
    assert rows[1][header.index("binary_macs")] == 0
    with pytest.raises(ValueError, match="`profiles` is empty"):
        binarization_bars({})
