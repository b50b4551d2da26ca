import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.plugins.precision import DoublePrecision, Precision

from bnn_lightning.data import Augmentation, CIFAR10DataModule, DigitsDataModule, FolderDataModule, SyntheticDataModule
from bnn_lightning.workflows.arguments import check_arguments
from bnn_lightning.workflows.errors import UserError


def data(**options: object) -> SyntheticDataModule:
    defaults = {"image_size": 8, "num_classes": 4, "num_train": 50, "num_test": 13, "batch_size": 12}
    return SyntheticDataModule(**{**defaults, **options})


def with_trainer(
    module: SyntheticDataModule,
    *,
    rank: int = 0,
    devices: int = 1,
    accumulate: int = 1,
    precision: object = None,
    stage: str = "fit",
) -> SyntheticDataModule:
    module.trainer = SimpleNamespace(
        distributed_sampler_kwargs={"rank": rank, "num_replicas": devices} if devices > 1 else None,
        accumulate_grad_batches=accumulate,
        overfit_batches=0.0,
        precision_plugin=precision or Precision(),
    )
    module.setup(stage)
    return module


def test_images_are_float32_in_unit_range_on_after_transfer() -> None:
    module = with_trainer(data(augment=Augmentation(flip=0.5, padding=1)))
    batch = next(iter(module.train_dataloader()))
    moved = module.transfer_batch_to_device(batch, torch.device("cpu"), 0)
    images, labels = module.on_after_batch_transfer(moved, 0)
    assert (images.dtype, images.shape) == (torch.float32, (12, 3, 8, 8))
    assert 0 <= images.min() < images.max() <= 1
    assert (labels.dtype, labels.shape) == (torch.int64, (12,))


def test_images_take_the_precision_of_the_run() -> None:
    module = with_trainer(data(), precision=DoublePrecision())
    images, _ = module.on_after_batch_transfer(next(iter(module.train_dataloader())), 0)
    assert images.dtype == torch.float64


@pytest.mark.parametrize("devices, accumulate", [(2, 1), (1, 3), (2, 2), (4, 3)])
def test_images_of_a_step_do_not_depend_on_the_layout(devices: int, accumulate: int) -> None:
    augment = Augmentation(flip=0.5, padding=2, degrees=10)

    def steps(devices: int, accumulate: int) -> list[torch.Tensor]:
        ranks = []
        for rank in range(devices):
            module = with_trainer(data(augment=augment), rank=rank, devices=devices, accumulate=accumulate)
            module.train_dataloader().sampler.set_epoch(2)
            loader = module.train_dataloader()
            loader.sampler.set_epoch(2)
            ranks.append([images for images, _ in module.batches(loader)])
        micro = [images for batches in zip(*ranks, strict=True) for images in batches]
        size = devices * accumulate
        return [torch.cat(micro[i : i + size]) for i in range(0, len(micro), size)]

    reference = steps(1, 1)
    found = steps(devices, accumulate)
    assert len(found) == len(reference) == 4
    for ours, theirs in zip(found, reference, strict=True):
        assert sorted(map(str, ours.flatten(1).tolist())) == sorted(map(str, theirs.flatten(1).tolist()))


@pytest.mark.parametrize("devices, accumulate, message", [
    (5, 1, r"5 x 1 = 5, got 12; the nearest valid sizes are 10 and 15"),
    (4, 2, r"4 x 2 = 8, got 12; the nearest valid sizes are 8 and 16"),
    (16, 1, r"16 x 1 = 16, got 12; the nearest valid sizes are 16 and 32"),
])  # fmt: skip
def test_a_batch_that_cannot_be_shared_is_an_error_in_setup(devices: int, accumulate: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_trainer(data(), devices=devices, accumulate=accumulate)


def test_evaluation_scores_every_image_on_any_number_of_devices() -> None:
    for devices in (1, 2, 3, 13):
        modules = [with_trainer(data(), rank=rank, devices=devices, stage="test") for rank in range(devices)]
        seen = [batch.indices for module in modules for batch in module.test_dataloader()]
        assert sorted(torch.cat(seen).tolist()) == list(range(13))


def test_more_devices_than_images_is_an_error() -> None:
    module = with_trainer(data(), devices=14, stage="test")
    with pytest.raises(ValueError, match="`devices` must be at most the 13 images of the test set, got 14"):
        module.test_dataloader()


def test_held_out_images_are_not_trained_on_and_not_augmented() -> None:
    module = data(val_fraction=0.2, drop_last=False, augment=Augmentation(flip=1.0, padding=2, padding_mode="zero"))
    module.setup("fit")
    assert module.has_val
    held = torch.cat([batch.indices for batch in module.val_dataloader()])
    trained = torch.cat([batch.indices for batch in module.train_dataloader()])
    assert sorted(held.tolist() + trained.tolist()) == list(range(50))
    assert len(held) == 10
    images, labels = next(module.batches(module.val_dataloader()))
    raw, raw_labels = module.read(train=True)
    assert torch.equal(images, raw[held] / 255)
    assert torch.equal(labels, raw_labels[held])


def test_without_held_out_images_the_test_set_gives_curves() -> None:
    module = data()
    module.setup("fit")
    assert not module.has_val
    assert [b.split for b in module.val_dataloader()] == ["test", "test"]


@pytest.mark.parametrize("stage, loaders", [("validate", ["val"]), ("test", ["test"]), ("fit", ["train", "val"])])
@pytest.mark.parametrize("val_fraction", [0.0, 0.5])
def test_each_stage_sets_up_what_it_needs(stage: str, loaders: list[str], val_fraction: float) -> None:
    module = data(val_fraction=val_fraction)
    module.setup(stage)
    module.setup(stage)
    for name in loaders:
        assert len(getattr(module, f"{name}_dataloader")()) > 0


def test_drop_last() -> None:
    for drop_last, steps in ((True, 4), (False, 5)):
        module = data(drop_last=drop_last)
        module.setup("fit")
        assert len(module.train_dataloader()) == steps


def test_overfitting_repeats_the_same_batches() -> None:
    module = with_trainer(data())
    module.trainer.overfit_batches = 1
    loaders = [module.train_dataloader(), module.train_dataloader()]
    loaders[1].sampler.set_epoch(1)
    first, second = (next(iter(loader)).indices for loader in loaders)
    assert torch.equal(first, second)


def test_statistics_can_be_replaced() -> None:
    module = data(mean=[0.1, 0.2, 0.3], std=(1, 2, 3))
    assert (module.mean, module.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 0}, "`batch_size` must be a whole number of at least 1, got 0"),
        ({"eval_batch_size": 0}, "`eval_batch_size` must be a whole number of at least 1, got 0"),
        ({"num_workers": -1}, "`num_workers` must be a whole number of at least 0, got -1"),
        ({"val_fraction": 1.0}, r"`val_fraction` must be in \[0, 1\), got 1.0"),
        ({"mean": [0.5]}, r"`mean` must have a number for each of 3 channels, got \[0.5\]"),
        ({"std": [0.0, 1, 1]}, r"`std` must be positive in every channel"),
        ({"augment": "none"}, "`augment` must be an Augmentation, None or 'default', got 'none'"),
        ({"num_classes": 0}, "`num_classes` must be a whole number of at least 1, got 0"),
        ({"batch_size": "many"}, "`batch_size` must be a whole number of at least 1, got 'many'"),
        ({"batch_size": 12.5}, r"`batch_size` must be a whole number of at least 1, got 12\.5"),
        ({"val_fraction": "x"}, r"`val_fraction` must be in \[0, 1\), got 'x'"),
        ({"seed": None}, "`seed` must be a whole number of at least 0, got None"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data(**options)


def test_a_batch_larger_than_the_set_is_an_error_before_training() -> None:
    with pytest.raises(ValueError, match="`batch_size` must be at most the 50 training images of synthetic, got 51"):
        data(batch_size=51).setup("fit")


def test_too_small_a_split_is_an_error_before_training() -> None:
    with pytest.raises(ValueError, match=r"`val_fraction` must leave images in both parts of 50, got 0\.001"):
        data(val_fraction=0.001).setup("fit")


def test_the_set_of_your_own_in_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "data.md").read_text()
    code = next(block.split("```")[0] for block in page.split("```python\n") if "class Blobs" in block)
    names: dict[str, Any] = {}
    exec(code, names)
    module = names["Blobs"](batch_size=20, val_fraction=0.1)
    module.setup("fit")
    images, labels = next(module.batches(module.train_dataloader()))
    assert images.shape == (20, 1, 8, 8)
    assert torch.equal(images[:, 0, 0, 0] > 0.25, labels == 1)


def test_a_signature_names_the_arguments_of_the_bases() -> None:
    class Own(SyntheticDataModule):
        def __init__(self, root: str, *, shade: float = 0.5, **options: Any) -> None:
            super().__init__(root, **options)

    class Closed(SyntheticDataModule):
        def __init__(self, root: str) -> None:
            super().__init__(root)

    own = inspect.signature(Own).parameters
    assert {"shade", "num_train", "augment", "val_fraction"} <= own.keys()
    assert own["batch_size"].default == 32
    assert list(inspect.signature(Closed).parameters) == ["root"]
    folder = inspect.signature(FolderDataModule).parameters
    assert (folder["crop_ratio"].default, folder["flip"].default, folder["num_workers"].default) == (1.0, 0.5, 4)


class Shifted(CIFAR10DataModule):
    def __init__(self, *, shift: float = 0.0, **options: Any) -> None:
        super().__init__(**options)


class Variadic(CIFAR10DataModule):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


@pytest.mark.parametrize("kind", [Shifted, Variadic])
def test_a_subclass_passes_positional_arguments_on_by_name(kind: type[CIFAR10DataModule]) -> None:
    given = {"root": "elsewhere", "batch_size": 8, "download": False}
    check_arguments(kind, given, "data", partial=False)
    assert kind(**given).root == Path("elsewhere")
    assert "spec" not in inspect.signature(kind).parameters
    with pytest.raises(UserError, match=r"`data\.roots`"):
        check_arguments(kind, {"roots": "elsewhere"}, "data", partial=False)


class Pictures(FolderDataModule):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)


class Fixed(FolderDataModule):
    def __init__(self, **options: Any) -> None:
        super().__init__("elsewhere", **options)


def test_a_subclass_gives_a_required_argument_or_passes_it_on() -> None:
    check_arguments(Pictures, {"root": "elsewhere", "batch_size": 8}, "data", partial=False)
    check_arguments(Fixed, {"batch_size": 8}, "data", partial=False)
    assert "spec" not in inspect.signature(Pictures).parameters


@pytest.mark.parametrize("kind", [DigitsDataModule, SyntheticDataModule])
@pytest.mark.parametrize("option", ["download", "verify"])
def test_sets_without_files_take_no_options_of_files(kind: type[DigitsDataModule], option: str) -> None:
    with pytest.raises(UserError, match=rf"`data\.{option}`"):
        check_arguments(kind, {option: True}, "data", partial=False)
    with pytest.raises(TypeError, match=option):
        kind(**{option: True})
