"""The page of the packed file agrees with the code: numbers, tables of types, layouts and regions, and a real file."""

import json
import re
import struct
import zlib

import numpy as np
import pytest

from bnn_lightning.deploy.format import container as containers
from bnn_lightning.deploy.format import plan_section, prefix
from bnn_lightning.deploy.format.layouts import DTYPES, LAYOUTS, stored_form
from bnn_lightning.deploy.kernels.call import Region
from bnn_lightning.zoo import packed_file
from tests.packaging.pages import DOCS

TEXT = (DOCS / "reference" / "file_format.md").read_text(encoding="utf-8")


def table(heading: str, column: str) -> list[list[str]]:
    """Return the rows of the table below a heading whose first column has this title."""
    part = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0].partition(f"\n| {column} |")[2]
    rows = part.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_page_states_the_numbers_of_the_code() -> None:
    for value in (
        f"version {prefix.VERSION} of the format",
        f"versions 1 to {prefix.VERSION - 1} are refused",
        f"`{prefix.MAGIC.decode()}`",
        f"`{plan_section.MAGIC.decode()}`",
        f"byte 0, {prefix.ALIGN} bytes long",
        f"next multiple of {prefix.ALIGN}",
        f"{prefix.DIGEST} bytes long",
        f"at most {containers._MOST_HEADER >> 20} MiB",
    ):
        assert value in TEXT, value


def test_page_lists_types_layouts_and_regions() -> None:
    assert [row[0].strip("`") for row in table("Constants", "dtype")] == list(DTYPES)
    for dtype, stored in ((row[0].strip("`"), row[1]) for row in table("Constants", "dtype")):
        if dtype != "bits":
            assert f"{np.dtype(DTYPES[dtype]).itemsize} byte" in stored
    assert [row[0].strip("`") for row in table("Constants", "layout")] == list(LAYOUTS)
    assert [row[0] for row in table("Plan section", "region")] == [f"{r.value}, {r.name.lower()}" for r in Region]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_page_says_which_types_a_layout_takes(layout: str) -> None:
    said = next(row[1] for row in table("Constants", "layout") if row[0] == f"`{layout}`")
    for dtype in DTYPES:
        takes = said == f"`{dtype}`" or (said == "all but `bits`" and dtype != "bits")
        if takes:
            stored_form(layout, dtype, (4, 4, 3, 3), 1)
        else:
            with pytest.raises(ValueError, match=layout):
                stored_form(layout, dtype, (4, 4, 3, 3), 1)


def test_a_file_reads_by_the_page() -> None:
    data = packed_file("digits_mlp").read_bytes()
    values = {}
    for place, kind, meaning in table("Prefix", "bytes"):
        first, _, last = place.partition("-")
        part = data[int(first) : int(last or first) + 1]
        if kind.startswith("u"):
            values[meaning] = struct.unpack({"u8": "<B", "u32": "<I", "u64": "<Q"}[kind], part)[0]
        else:
            assert part == (bytes(12) if meaning == "zero" else meaning.strip("`").encode())
    assert values[f"version of the format, {prefix.VERSION}"] == prefix.VERSION
    assert values["CRC-32 of bytes 0-59"] == zlib.crc32(data[:60])
    end = values["offset of the constants"] + values["length of the constants"]
    assert values["CRC-32 of the constants"] == zlib.crc32(data[values["offset of the constants"] : end])
    assert len(data) == end + prefix.DIGEST
    header = containers.read_container(data).header
    named = {row[0].strip("`") for row in table("Header", "key")}
    assert named == {*header, "constants"}
    assert {key for key in header["info"] if f"`{key}`" not in TEXT} == set()
    assert json.loads(json.dumps(header["graph"]))[0][0] in re.findall(r"\['(\w+)'", TEXT)
