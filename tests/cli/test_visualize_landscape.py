"""`bnn visualize landscape=...`: files that are gone on with, drawn again, and refused with other settings."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bnn_lightning.analysis import Measured, random_direction, shifted
from bnn_lightning.data import SyntheticDataModule
from bnn_lightning.workflows.checkpoint import load_backbone
from bnn_lightning.workflows.figure_kinds.landscape_file import LandscapeFile, read_landscape

Bnn = Callable[..., Any]
QUICK = ("points=3", "images=20", "batch_size=16", "workers=1", "hessian_images=0", "formats=[svg]")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_points_are_those_of_plain_torch(trained: Any, bnn: Bnn, tmp_path: Path) -> None:
    done = bnn("visualize", f"landscape={trained.folder}", *QUICK, "split=test", f"out={tmp_path}/l.png")
    assert done.code == 0, done.err
    assert {path.name for path in tmp_path.glob("l*")} == {"l.npz", "l.png", "l_surface.png", "l_sharpness.csv"}
    one, identity, _ = read_landscape(tmp_path / "l.npz")
    assert (identity["evaluator"], one.steps.tolist()) == ("packed", [-1.0, 0.0, 1.0])
    assert one.flipped[1, 1] == 0
    assert (one.flipped > 0).sum() == 8
    data = SyntheticDataModule(image_size=8, num_train=64, num_test=24, batch_size=20)
    data.setup("test")
    images, labels = next(iter(data.batches(data.test_dataloader())))
    network = load_backbone(trained.folder)
    directions = [random_direction(network, seed=seed) for seed in (1, 2)]
    for i, j in ((1, 1), (0, 2), (2, 1)):
        with shifted(network, directions, (one.steps[i], one.steps[j])), torch.no_grad():
            logits = network(images)
        assert one.losses[i, j] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-4)
        assert one.accuracies[i, j] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    (row,) = csv.DictReader((tmp_path / "l_sharpness.csv").open())
    assert float(row["loss"]) == one.losses[1, 1]
    ends = one.losses[[0, 2], 1].sum() + one.losses[1, [0, 2]].sum()
    assert float(row["curvature"]) == pytest.approx(ends / 2 - 2 * one.losses[1, 1])


def test_a_run_that_was_killed_goes_on_to_the_bit(
    trained: Any, bnn: Bnn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("visualize", f"landscape={trained.folder}", *QUICK)
    assert bnn(*words, f"out={tmp_path}/whole").code == 0
    add, added = LandscapeFile.add, []

    def killed(self: LandscapeFile, index: int, measured: Measured) -> None:
        if len(added) == 4:
            raise KeyboardInterrupt
        added.append(index)
        add(self, index, measured)

    monkeypatch.setattr(LandscapeFile, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        bnn(*words, f"out={tmp_path}/half")
    monkeypatch.setattr(LandscapeFile, "add", add)
    (half,) = (tmp_path / "half").glob("*.npz")
    assert np.isfinite(read_landscape(half)[0].losses).sum() == 4
    assert "is not measured whole" in bnn("visualize", f"landscape={half}", f"out={tmp_path}/half").err
    done = bnn(*words, f"out={tmp_path}/half")
    assert f"4 of 9 points are in {half}" in done.out
    for key in ("losses", "accuracies", "flipped"):
        whole = read_landscape(tmp_path / "whole" / half.name)[0]
        np.testing.assert_array_equal(getattr(read_landscape(half)[0], key), getattr(whole, key))
    again = bnn(*words, f"out={tmp_path}/half")
    assert "9 of 9 points" in again.out


@pytest.mark.parametrize(
    "word, message",
    [("seed=5", "seed: 1 there, 5 now"), ("radius=0.5", "radius: 1.0 there, 0.5 now"), ("images=19", "images: ")],
)
def test_other_settings_are_refused(trained: Any, bnn: Bnn, tmp_path: Path, word: str, message: str) -> None:
    words = ("visualize", f"landscape={trained.folder}", *QUICK, "dimensions=1", f"out={tmp_path}/l.svg")
    assert bnn(*words).code == 0
    before = (tmp_path / "l.npz").read_bytes()
    done = bnn(*words, word)
    assert done.code == 2
    assert "was measured with something else" in done.err
    assert message in done.err
    assert (tmp_path / "l.npz").read_bytes() == before


def test_several_networks_and_drawn_again(trained: Any, bnn: Bnn, tmp_path: Path) -> None:
    assert "One of" in bnn("visualize", f"landscape=[{trained.folder},{trained.folder}]", *QUICK).err
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / "b.ckpt").write_bytes(trained.last.read_bytes())
    both = f"landscape=[{trained.final},{folder}/b.ckpt]"
    done = bnn("visualize", both, *QUICK, "hessian_images=16", "hessian_iterations=2", f"out={tmp_path}/out")
    assert done.code == 0, done.err
    files = sorted((tmp_path / "out").glob("*.npz"))
    assert "landscape_b.npz" in [file.name for file in files]
    assert len(files) == 2
    identities = [read_landscape(file)[1] for file in files]
    assert identities[0]["images"] == identities[1]["images"]
    extras = json.loads(str(np.load(files[0])["extras"]))
    assert extras["hessian_surrogate"] != extras["hessian_surrogate_filter"]
    again = bnn("visualize", f"landscape=[{','.join(map(str, files))}]", f"out={tmp_path}/again.html")
    assert again.code == 0, again.err
    assert [path.suffix for path in (tmp_path).glob("again_interactive*")] == [".html"]
    rows = list(csv.DictReader((tmp_path / "again_sharpness.csv").open()))
    assert float(rows[0]["hessian_surrogate"]) == extras["hessian_surrogate"]


def test_batch_norm_estimated_anew_is_a_file_of_its_own(trained: Any, bnn: Bnn, tmp_path: Path) -> None:
    words = ("visualize", f"landscape={trained.folder}", *QUICK, "dimensions=1", f"out={tmp_path}")
    assert bnn(*words).code == 0
    assert bnn(*words, "bn_images=32").code == 0
    plain, anew = sorted(tmp_path.glob("*.npz"), key=lambda path: path.stem.endswith("_bn"))
    assert "BN re-estimated" in read_landscape(anew)[0].name
    assert not np.array_equal(read_landscape(plain)[0].losses, read_landscape(anew)[0].losses)


@pytest.mark.parametrize(
    "word, message",
    [
        ("points=4", "`points` must be odd"),
        ("dimensions=3", "`dimensions` must be 1 or 2"),
        ("perturb=biases", "`perturb` must be weights, binary or all"),
        ("radii=[2.0]", "`radii` must be positive and at most radius=1"),
        ("basin_above=0", "`basin_above` must be positive"),
        ("hessian_images=-1", "`hessian_images` must not be negative"),
        ("out=no/such/file.png", "there is no folder no/such"),
        ("landscape=nowhere", "`nowhere`: no such file"),
        ("landscape=nowhere.npz", "`nowhere.npz` is no landscape of ours"),
    ],
)
def test_refused_before_work_starts(trained: Any, bnn: Bnn, word: str, message: str) -> None:
    first = () if word.startswith("landscape") else (f"landscape={trained.folder}",)
    done = bnn("visualize", *first, *QUICK, word)
    assert done.code == 2
    assert message in done.err
