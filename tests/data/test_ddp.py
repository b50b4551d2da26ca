"""Two processes (gloo) share training, resume inside an epoch, and score each test image once."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data import ddp_script
from tests.ranks import run_ranks


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ddp")
    run_ranks(ddp_script.main, folder, folder=folder)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def test_a_rank_has_one_thread_and_the_environment_of_its_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("set", None):
        if value is None:
            monkeypatch.delenv("BNN_RANKS")
        else:
            monkeypatch.setenv("BNN_RANKS", value)
        run_ranks(ddp_script.note_process, tmp_path, "BNN_RANKS", folder=tmp_path)
        assert [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)] == [[1, value]] * 2


def test_ranks_share_each_epoch(ranks: list[dict[str, Any]]) -> None:
    for epoch in range(2):
        seen = [i for rank in ranks for number, batch in rank["whole"] if number == epoch for i in batch]
        assert len(seen) == len(set(seen)) == 20
    assert [len(batch) for _, batch in ranks[0]["whole"]] == [2] * 10


def test_resume_inside_an_epoch_on_both_ranks(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["resumed"] == rank["whole"][3:]


def test_each_test_image_is_scored_once(ranks: list[dict[str, Any]]) -> None:
    seen = [i for rank in ranks for _, batch in rank["tested"] for i in batch]
    assert sorted(seen) == list(range(13))
    exact = sum(i % 4 for i in range(13)) / 13
    assert [rank["mean_label"] for rank in ranks] == pytest.approx([exact, exact], abs=1e-6)


def test_a_batch_that_cannot_be_shared_is_one_error_on_every_rank(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert "devices x accumulation = 2 x 1 = 2, got 5; the nearest valid sizes are 4 and 6" in rank["odd_batch"]
