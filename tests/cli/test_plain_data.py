"""Data modules of other packages on two processes (gloo): which images each rank sees, and how often it is set up."""

import json
from collections import Counter
from typing import Any

import pytest

from tests.cli import plain_data_script
from tests.ranks import run_ranks

MODULES = {
    "even": {"train": 16, "evaluation": 16},
    "odd": {"train": 9, "evaluation": 9},  # a padded sampler would score 10
    "uneven_batches": {"train": 8, "evaluation": 5, "batch_size": 2},
    "own_sampler": {"train": 8, "evaluation": 9, "own_sampler": True},
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("plain")
    (folder / "modules.json").write_text(json.dumps(MODULES))
    text = run_ranks(plain_data_script.main, folder, folder=folder)
    ranks = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]
    return {"ranks": ranks, "text": text}


def seen(found: dict[str, Any], module: str, part: str) -> list[Counter[float]]:
    """Return how often each image was seen, an epoch each, over both ranks."""
    ranks = [rank[module][part] for rank in found["ranks"]]
    epochs = 2 if part != "test" else 1
    assert all(len(batches) % epochs == 0 for batches in ranks)
    halves = [
        [batches[e * len(batches) // epochs :][: len(batches) // epochs] for batches in ranks] for e in range(epochs)
    ]
    return [Counter(image for batches in half for batch in batches for image in batch) for half in halves]


@pytest.mark.parametrize("module", MODULES)
def test_training_sees_each_image_once_an_epoch_or_repeats_fewer_than_there_are_ranks(
    module: str, found: dict[str, Any]
) -> None:
    number = MODULES[module]["train"]
    for counts in seen(found, module, "train"):
        assert set(counts) == set(map(float, range(number)))
        assert counts.total() - number == -number % 2
    first, second = (rank[module]["train"][0] for rank in found["ranks"])
    assert first != second


@pytest.mark.parametrize("part", ["val", "test"])
@pytest.mark.parametrize("module", ["even", "odd", "uneven_batches"])
def test_evaluation_sees_each_image_once(module: str, part: str, found: dict[str, Any]) -> None:
    for counts in seen(found, module, part):
        assert counts == Counter(map(float, range(MODULES[module]["evaluation"])))
    lengths = {len(rank[module][part]) for rank in found["ranks"]}
    assert len(lengths) == 1  # collectives in a forward need as many batches on each rank


def test_a_sampler_of_the_users_own_is_padded_with_a_warning_that_counts(found: dict[str, Any]) -> None:
    assert all(counts.total() == 10 for counts in seen(found, "own_sampler", "val"))
    assert "up to 1 images are counted twice" in " ".join(found["text"].split())


def test_each_rank_is_set_up_once_a_stage(found: dict[str, Any]) -> None:
    for rank, calls in enumerate(ranks["odd"]["calls"] for ranks in found["ranks"]):
        assert calls.count("prepare_data") == (1 if rank == 0 else 0)
        assert [call for call in calls if call != "prepare_data"] == ["setup fit", "setup test"]
