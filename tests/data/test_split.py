import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bnn_lightning.data.split import stratified_split


@given(st.lists(st.integers(0, 5), min_size=20, max_size=200), st.floats(0.06, 0.94), st.integers(0, 100))
def test_parts_are_complete_disjoint_and_stratified(classes: list[int], fraction: float, seed: int) -> None:
    labels = torch.tensor(classes)
    rest, held = stratified_split(labels, fraction, seed=seed)
    assert sorted(rest.tolist() + held.tolist()) == list(range(len(classes)))
    assert len(held) == round(fraction * len(classes))
    for label in set(classes):
        share = fraction * classes.count(label)
        assert abs((labels[held] == label).sum().item() - share) < 1


def test_seed_decides_which_images() -> None:
    labels = torch.arange(1000) % 10
    first, again, other = (stratified_split(labels, 0.1, seed=seed)[1] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_an_empty_part_is_an_error(fraction: float) -> None:
    with pytest.raises(ValueError, match="`val_fraction` must leave images in both parts of 20"):
        stratified_split(torch.zeros(20, dtype=torch.int64), fraction, seed=0)


def test_the_only_image_of_a_class_is_trained_on() -> None:
    labels = torch.tensor([0] * 7 + [1] + [2] * 3)
    rest, held = stratified_split(labels, 0.5, seed=0)
    assert len(held) == 6
    assert torch.bincount(labels[rest], minlength=3).tolist() == [3, 1, 1]
