import pytest
import torch

from bnn_lightning.data.loader import ResumableLoader
from bnn_lightning.data.sampler import EpochSampler, training_slices


def loader(num_images: int = 40, seed: int = 0, batch_size: int = 8) -> ResumableLoader:
    slices = training_slices(num_images, batch_size, rank=0, parts=1, accumulate=1, drop_last=True)
    sampler = EpochSampler(torch.arange(num_images), slices, split="train", seed=seed)
    return ResumableLoader(sampler, identity={"seed": seed, "batch_size": batch_size})


def epoch_of(data: ResumableLoader, epoch: int) -> list[list[int]]:
    data.sampler.set_epoch(epoch)
    return [batch.indices.tolist() for batch in data]


@pytest.mark.parametrize("position", [1, 2, 4])
def test_resume_inside_an_epoch(position: int) -> None:
    data, other = loader(), loader()
    whole = [epoch_of(loader(), epoch) for epoch in range(4)]
    epoch_of(data, 0)
    data.sampler.set_epoch(1)
    iterator = iter(data)
    for _ in range(position):
        next(iterator)
    other.load_state_dict(data.state_dict())
    unused = iter(other)  # Lightning makes iterators that it does not use
    assert epoch_of(other, 1) == whole[1][position:]
    assert [epoch_of(other, e) for e in (2, 3)] == whole[2:]
    assert len(other) == 5
    del unused


def test_resume_at_the_end_of_an_epoch_starts_the_next() -> None:
    data, other = loader(), loader()
    epoch_of(data, 0)
    other.load_state_dict(data.state_dict())
    assert epoch_of(other, 1) == epoch_of(loader(), 1)


def test_state_can_be_saved_again_before_the_first_batch() -> None:
    data, other = loader(), loader()
    next(iter(data))
    state = data.state_dict()
    other.load_state_dict(state)
    assert other.state_dict() == state
    assert state["position"] == 1


def test_an_interrupted_epoch_does_not_shift_the_next() -> None:
    data = loader()
    next(iter(data))
    assert epoch_of(data, 1) == epoch_of(loader(), 1)


def test_another_identity_inside_an_epoch_is_an_error() -> None:
    data = loader()
    next(iter(data))
    with pytest.raises(ValueError, match=r"inside epoch 0, after 1 of 5 batches.*`seed` was 0 and is 3"):
        loader(seed=3).load_state_dict(data.state_dict())
    with pytest.raises(ValueError, match=r"`batch_size` was 8 and is 4"):
        loader(batch_size=4).load_state_dict(data.state_dict())


def test_another_identity_between_epochs_is_fine() -> None:
    data, other = loader(), loader(batch_size=4)
    epoch_of(data, 0)
    other.load_state_dict(data.state_dict())
    assert epoch_of(other, 1) == epoch_of(loader(batch_size=4), 1)
