import math
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from pytorch_lightning import Trainer
from pytorch_lightning.plugins.precision import DoublePrecision
from torch import nn
from torchvision.transforms import v2

from bnn_lightning.data import ImageNetDataModule, RandAugment, decode
from bnn_lightning.data.auto_augment import AutoAugment
from bnn_lightning.data.crops import random_crop
from bnn_lightning.data.decode import decode_image, torchcodec
from bnn_lightning.data.encoded_images import DecodedImages
from bnn_lightning.data.image_io import DamagedImageError
from bnn_lightning.data.random import keyed_generator
from bnn_lightning.tasks import ClassificationTask

sys.path.insert(0, str(Path(__file__).parent))
from folders import picture

WNIDS = ["n01440764", "n01443537", "n01484850"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("imagenet")
    for label, wnid in enumerate(WNIDS):
        for part, count in (("train", 8), ("val", 3)):
            folder = root / part / wnid
            folder.mkdir(parents=True)
            for i in range(count):
                picture(40 + 3 * i, 60 - 4 * i, 100 * label + i).save(folder / f"{wnid}_{i}.JPEG")
    picture(30, 30, 7).convert("L").save(root / "train" / WNIDS[0] / "gray.jpg")
    picture(30, 30, 8).convert("CMYK").save(root / "train" / WNIDS[1] / "cmyk.JPEG")
    picture(30, 30, 9).save(root / "train" / WNIDS[2] / "png_inside.JPEG", format="PNG")
    (root / "train" / WNIDS[2] / "notes.txt").write_text("not an image")
    return root


def module(root: Path, **options: object) -> ImageNetDataModule:
    small = {"num_classes": 3, "image_size": 16, "batch_size": 9, "num_workers": 0}
    return ImageNetDataModule(root, **{**small, **options})


def finished(data: ImageNetDataModule, batch: DecodedImages) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = data.on_after_batch_transfer(batch, 0)
    return images, labels


def epoch(data: ImageNetDataModule, number: int = 0) -> list[DecodedImages]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(number)
    return list(loader)


def test_a_training_epoch(root: Path) -> None:
    data = module(root)
    data.setup("fit")
    batches = epoch(data)
    assert sorted(torch.cat([b.indices for b in batches]).tolist()) == list(range(27))
    assert torch.bincount(torch.cat([b.labels for b in batches])).tolist() == [9, 9, 9]
    images, labels = finished(data, batches[0])
    assert (batches[0].images.dtype, images.dtype, labels.dtype) == (torch.uint8, torch.float32, torch.int64)
    assert images.shape == (9, 3, 16, 16)
    assert torch.equal(images, batches[0].images / 255)
    assert data.class_names == tuple(WNIDS)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_loading_draws_nothing_from_the_trainings_generator(root: Path, num_workers: int) -> None:
    data = module(root, num_workers=num_workers)
    data.setup("fit")
    before = torch.get_rng_state()
    list(data.train_dataloader())
    list(data.val_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_and_layout_do_not_change_an_image(root: Path) -> None:
    data = module(root)
    data.setup("fit")
    reference = {int(i): image for b in epoch(data, 3) for i, image in zip(b.indices, b.images, strict=True)}
    other = module(root, num_workers=2, batch_size=5, drop_last=False)
    other.setup("fit")
    for batch in epoch(other, 3):
        for i, image in zip(batch.indices, batch.images, strict=True):
            assert torch.equal(image, reference[int(i)])
    changed = {int(i): image for b in epoch(data, 4) for i, image in zip(b.indices, b.images, strict=True)}
    assert not any(torch.equal(changed[i], reference[i]) for i in range(24))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resume_inside_an_epoch(root: Path, num_workers: int) -> None:
    data = module(root, num_workers=num_workers)
    data.setup("fit")
    whole = epoch(data, 1)
    loader, resumed = data.train_dataloader(), data.train_dataloader()
    loader.sampler.set_epoch(1)
    next(iter(loader))
    resumed.load_state_dict(loader.state_dict())
    resumed.sampler.set_epoch(1)
    rest = list(resumed)
    assert [b.indices.tolist() for b in rest] == [b.indices.tolist() for b in whole[1:]]
    assert all(torch.equal(a.images, b.images) for a, b in zip(rest, whole[1:], strict=True))
    resumed.sampler.set_epoch(2)
    assert len(list(resumed)) == 3


def test_test_images_equal_torchvision(root: Path) -> None:
    data = module(root, image_size=16)
    data.setup("test")
    reference = v2.Compose([v2.Resize(18), v2.CenterCrop(16), v2.PILToTensor()])
    (batch,) = data.test_dataloader()
    paths = sorted((root / "val").rglob("*.JPEG"))
    expected = torch.stack([reference(Image.open(path)) for path in paths])
    assert torch.equal(batch.images, expected)
    assert batch.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3


def test_published_sizes() -> None:
    data = ImageNetDataModule("nowhere")
    assert (data.num_classes, data.image_size, data.options.shorter_side) == (1000, 224, 256)
    assert (data.mean, data.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert len(data.class_names) == 1000


def test_training_images_are_cut_by_torchvision(root: Path) -> None:
    data = module(root, image_size=[12, 18], min_area=0.2, flip=0.5)
    data.setup("fit")
    batch = epoch(data)[0]
    source = data._sets["train"].source
    crop = v2.RandomResizedCrop((12, 18), scale=(0.2, 1.0), ratio=(9 / 8, 2.0))
    for image, index in zip(batch.images, batch.indices.tolist(), strict=True):
        with keyed_generator(data.seed, batch.epoch, index):
            expected = v2.RandomHorizontalFlip(0.5)(crop(source.decode(index)))
        assert torch.equal(image, expected)


def test_lighting_is_for_training_images_only(root: Path) -> None:
    data = module(root, lighting=0.1, val_fraction=0.3)
    data.setup("fit")
    batch = epoch(data)[0]
    shift = finished(data, batch)[0] - batch.images / 255
    assert shift.abs().amax(dim=(1, 2, 3)).min() > 0
    torch.testing.assert_close(shift, shift[:, :, :1, :1].expand_as(shift), rtol=0, atol=1e-6)
    held = next(iter(data.val_dataloader()))
    assert torch.equal(finished(data, held)[0], held.images / 255)
    assert sum(len(b.indices) for b in data.val_dataloader()) == 8


def test_images_take_the_precision_of_the_run(root: Path) -> None:
    data = module(root)
    data.setup("fit")
    batch = epoch(data)[0]

    class FakeTrainer:
        precision_plugin = DoublePrecision()

    data.trainer = FakeTrainer()
    assert finished(data, batch)[0].dtype == torch.float64


def test_files_that_are_not_what_they_say_are_decoded(root: Path) -> None:
    for name in ("n01440764/gray.jpg", "n01443537/cmyk.JPEG", "n01484850/png_inside.JPEG"):
        image = decode_image(str(root / "train" / name))
        assert (image.shape, image.dtype) == ((3, 30, 30), torch.uint8)


def test_torchcodec_and_pillow_decode_alike(root: Path) -> None:
    if torchcodec() is None:
        pytest.skip("needs torchcodec")
    for path in map(str, sorted(root.rglob("n*.JPEG"))):
        assert torch.equal(decode_image(path, "torchcodec"), decode_image(path, "pil"))


def test_number_of_classes_comes_from_the_folders(root: Path) -> None:
    assert module(root, num_classes=None).num_classes == 3
    with pytest.raises(ValueError, match=r"must be the number of classes in .*train`, 3 \(n01440764, .*\), got 1000"):
        module(root, num_classes=1000).setup("fit")


def test_missing_folders_say_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        module(tmp_path).setup("fit")
    for part in (str(tmp_path / "train"), "<wnid>", "image-net.org", "`data.root`"):
        assert part in str(caught.value)


def test_the_subfolder_imagenet_comes_first(root: Path, tmp_path: Path) -> None:
    (tmp_path / "imagenet").symlink_to(root)
    data = module(tmp_path, num_classes=None)
    data.setup("test")
    assert data.num_classes == 3


def test_damaged_images_are_named(root: Path, tmp_path: Path) -> None:
    source = (root / "train" / WNIDS[0] / f"{WNIDS[0]}_0.JPEG").read_bytes()
    path = tmp_path / "broken.JPEG"
    for content in (source[: len(source) // 2], b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"broken.JPEG` is damaged: it cannot be decoded"):
            decode_image(str(path))


def test_an_empty_class_is_named(root: Path, tmp_path: Path) -> None:
    for part in ("train", "val"):
        for wnid in WNIDS:
            (tmp_path / part / wnid).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=rf"train/{WNIDS[0]}` holds no .*.jpeg, .jpg, .*.png, .* file"):
        module(tmp_path).setup("fit")


def test_classes_of_val_must_be_those_of_train(root: Path, tmp_path: Path) -> None:
    (tmp_path / "train").symlink_to(root / "train")
    (tmp_path / "val").mkdir()
    for wnid in (*WNIDS[:2], "n99999999"):
        (tmp_path / "val" / wnid).symlink_to(root / "val" / WNIDS[0])
    with pytest.raises(ValueError, match="lacks n01484850 and has n99999999 besides"):
        module(tmp_path).setup("test")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"min_area": 0.0}, r"`min_area` must be in \(0, 1\], got 0\.0"),
        ({"flip": 2.0}, r"`flip` must be a probability in \[0, 1\], got 2\.0"),
        ({"lighting": -0.1}, r"`lighting` must be 0 or more, got -0\.1"),
        ({"resize_size": 10}, "`resize_size` must be at least `image_size` = 16, got 10"),
        ({"in_channels": 1}, "`in_channels` of ImageNet must be 3, got 1"),
    ],
)
def test_bad_options(root: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module(root, **options)


# Damaged files


@pytest.fixture
def damaged(root: Path, tmp_path: Path) -> Path:
    """The folder with two damaged training files, neighbors in order, and a damaged test file."""
    copy = tmp_path / "damaged"
    shutil.copytree(root, copy)
    for name in (f"train/{WNIDS[1]}/{WNIDS[1]}_3.JPEG", f"train/{WNIDS[1]}/{WNIDS[1]}_4.JPEG"):
        (copy / name).write_bytes((copy / name).read_bytes()[:200])
    (copy / "val" / WNIDS[2] / f"{WNIDS[2]}_1.JPEG").write_bytes(b"")
    return copy


def test_a_damaged_file_is_an_error_that_names_it(damaged: Path) -> None:
    data = module(damaged)
    data.setup("fit")
    with pytest.raises(ValueError, match=rf"{WNIDS[1]}_[34].JPEG` is damaged.*`data.on_damaged=skip`"):
        epoch(data)
    assert data.take_passed_over("train") is None


@pytest.mark.parametrize("num_workers", [0, 2])
def test_skipped_training_files_are_replaced_and_named(damaged: Path, root: Path, num_workers: int) -> None:
    data, whole = module(damaged, on_damaged="skip", num_workers=num_workers), module(root)
    data.setup("fit")
    whole.setup("fit")
    source = data._sets["train"].source
    bad = [i for i, path in enumerate(source.paths) if path.endswith((f"{WNIDS[1]}_3.JPEG", f"{WNIDS[1]}_4.JPEG"))]
    assert bad[1] == bad[0] + 1
    batches = epoch(data)
    for batch, reference in zip(batches, epoch(whole), strict=True):
        assert len(batch.images) == 9
        # The next whole file, after both damaged ones, takes their place with its own label.
        expected = [bad[1] + 1 if i in bad else i for i in reference.indices.tolist()]
        assert batch.indices.tolist() == expected
        assert torch.equal(batch.labels, source.labels[batch.indices])
        same = [k for k, i in enumerate(reference.indices.tolist()) if i not in bad]
        assert torch.equal(batch.images[same], reference.images[same])
    both = batches + epoch(data, 1)
    with pytest.warns(UserWarning, match="is damaged and passed over") as warned:
        assert all(len(finished(data, batch)[0]) == 9 for batch in both)
    assert len(warned) == 2
    assert [data.take_passed_over("train") for _ in range(2)] == [4, 0]


def test_skipped_test_files_are_left_out(damaged: Path) -> None:
    data = module(damaged, on_damaged="skip", eval_batch_size=4)
    data.setup("test")
    batches = list(data.test_dataloader())
    assert [len(batch.images) for batch in batches] == [4, 3, 1]
    assert sorted(torch.cat([b.indices for b in batches]).tolist()) == [0, 1, 2, 3, 4, 5, 6, 8]
    assert [Path(name).name for batch in batches for name in batch.damaged] == [f"{WNIDS[2]}_1.JPEG"]


def test_a_held_out_image_never_replaces_a_training_image(damaged: Path) -> None:
    data = module(damaged, on_damaged="skip", val_fraction=0.4, batch_size=4)
    data.setup("fit")
    training, held = data._indices["train"].tolist(), data._indices["val"].tolist()
    for number in range(4):
        assert {int(i) for batch in epoch(data, number) for i in batch.indices} <= set(training)
    seen = [int(i) for batch in data.val_dataloader() for i in batch.indices]
    assert set(seen) <= set(held)
    assert len(seen) == len(set(seen))


def test_a_set_of_damaged_files_is_an_error(tmp_path: Path) -> None:
    for part in ("train", "val"):
        (tmp_path / part / "n01").mkdir(parents=True)
        for i in range(20):
            (tmp_path / part / "n01" / f"{i:02}.JPEG").write_bytes(b"no image")
    data = module(tmp_path, num_classes=1, on_damaged="skip")
    data.setup("fit")
    with pytest.raises(ValueError, match="16 images in a row are damaged"):
        epoch(data)
    assert [(len(batch.images), len(batch.damaged)) for batch in data.test_dataloader()] == [(0, 9), (0, 9), (0, 2)]
    task = ClassificationTask(nn.Flatten(), num_classes=1, optimizer=partial(torch.optim.SGD, lr=0.1))
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    with pytest.warns(UserWarning, match="passed over"), pytest.raises(DamagedImageError):
        trainer.test(task, datamodule=data, verbose=False)


@pytest.mark.parametrize("eval_batch_size", [1, 8])
def test_a_batch_of_one_damaged_file_costs_no_other(damaged: Path, eval_batch_size: int) -> None:
    """Nine test files, of which one is damaged: alone in its batch, or the last batch's only one."""
    (damaged / "val" / WNIDS[2] / f"{WNIDS[2]}_1.JPEG").rename(damaged / "val" / WNIDS[2] / "z_last.JPEG")
    (damaged / "val" / WNIDS[0] / "dangling.JPEG").symlink_to("nowhere")
    (damaged / "val" / WNIDS[0] / "folder.JPEG").mkdir()
    data = module(damaged, on_damaged="skip", eval_batch_size=eval_batch_size)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))
    sizes: list[int] = []
    network.register_forward_hook(lambda module, images, logits: sizes.append(len(logits)))
    task = ClassificationTask(network, num_classes=3, optimizer=partial(torch.optim.SGD, lr=0.1))
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    with pytest.warns(UserWarning, match="passed over"):
        (found,) = trainer.test(task, datamodule=data, verbose=False)
    assert sum(sizes) == 8
    assert math.isfinite(found["test/loss"])
    assert data.take_passed_over("test") == 2


# Sizes, interpolation, augmentation, copies


def test_bnexts_evaluation(root: Path) -> None:
    options = ImageNetDataModule("nowhere", crop_ratio=0.95, interpolation="bicubic").options
    assert (options.shorter_side, options.image_size) == (235, 224)
    data = module(root, image_size=19, crop_ratio=0.95, interpolation="bicubic")
    data.setup("test")
    (batch,) = data.test_dataloader()
    mode = v2.InterpolationMode.BICUBIC
    reference = v2.Compose([v2.Resize(20, interpolation=mode), v2.CenterCrop(19), v2.PILToTensor()])
    paths = sorted((root / "val").rglob("*.JPEG"))
    expected = torch.stack([reference(Image.open(path)) for path in paths])
    assert torch.equal(batch.images, expected)


def test_bicubic_crops(root: Path) -> None:
    image = decode_image(str(root / "train" / WNIDS[0] / f"{WNIDS[0]}_0.JPEG"))
    crops = [random_crop(16, 16, min_area=0.5, flip=0.0, interpolation=name) for name in ("bilinear", "bicubic")]
    results = []
    for crop in crops:
        with keyed_generator(0, 0, 1):
            results.append(crop(image).int())
    assert not torch.equal(*results)
    assert (results[0] - results[1]).abs().float().mean() < 8


@pytest.mark.parametrize("augment", [RandAugment(), v2.TrivialAugmentWide()])
def test_augmentation_comes_after_the_crop_in_training_only(root: Path, augment: AutoAugment) -> None:
    plain, augmented = module(root, val_fraction=0.3), module(root, val_fraction=0.3, auto_augment=augment)
    plain.setup("fit")
    augmented.setup("fit")
    source, options = augmented._sets["train"].source, augmented.options
    size = {"height": options.image_size, "width": options.image_size, "interpolation": options.interpolation}
    crop = random_crop(**size, min_area=options.min_area, flip=options.flip)
    for before, after in zip(epoch(plain, 2), epoch(augmented, 2), strict=True):
        for image, index, result in zip(before.images, before.indices.tolist(), after.images, strict=True):
            with keyed_generator(0, 2, index):
                assert torch.equal(cut := crop(source.decode(index)), image)
                assert torch.equal(result, augment(cut))
    held, reference = next(iter(augmented.val_dataloader())), next(iter(plain.val_dataloader()))
    assert torch.equal(held.images, reference.images)


def test_copies_of_an_image_share_a_batch_and_differ(root: Path) -> None:
    once, data = module(root, batch_size=8), module(root, batch_size=8, repeats=2)
    once.setup("fit")
    data.setup("fit")
    batches, reference = epoch(data, 1), epoch(once, 1)
    assert len(batches) == len(reference) == 3
    first = torch.cat([batch.indices for batch in reference])
    for number, batch in enumerate(batches):
        images = (batch.indices % 27).tolist()
        assert images == 2 * first[4 * number : 4 * number + 4].tolist()
        assert batch.indices.tolist() == [i + 27 * (k >= 4) for k, i in enumerate(images)]
        assert torch.equal(batch.labels[:4], batch.labels[4:])
        assert not any(torch.equal(a, b) for a, b in zip(batch.images[:4], batch.images[4:], strict=True))
    plain = {int(i): image for batch in reference for i, image in zip(batch.indices, batch.images, strict=True)}
    for i, image in zip(batches[0].indices[:4].tolist(), batches[0].images[:4], strict=True):
        assert torch.equal(image, plain[i])


def test_copies_are_part_of_a_positions_identity(root: Path) -> None:
    data, other = module(root, batch_size=8, repeats=2), module(root, batch_size=8)
    data.setup("fit")
    other.setup("fit")
    loader = data.train_dataloader()
    next(iter(loader))
    with pytest.raises(ValueError, match="`repeats` was 2 and is None"):
        other.train_dataloader().load_state_dict(loader.state_dict())


def test_training_sizes_have_equal_shares_of_the_training(root: Path) -> None:
    data = module(root, train_sizes=[8, 12, 16], epochs=6)
    data.setup("fit")
    assert [epoch(data, number)[0].images.shape[-1] for number in range(7)] == [8, 8, 12, 12, 16, 16, 16]
    assert next(iter(data.val_dataloader())).images.shape[-1] == 16
    loader, resumed = data.train_dataloader(), data.train_dataloader()
    loader.sampler.set_epoch(3)
    batches = list(loader)
    resumed.load_state_dict({**loader.state_dict(), "position": 1})
    resumed.sampler.set_epoch(3)
    assert [b.images.shape for b in resumed] == [b.images.shape for b in batches[1:]]


def test_sizes_work_with_workers_that_persist(root: Path) -> None:
    data = module(root, train_sizes=[8, 16], epochs=2, num_workers=1)
    data.setup("fit")
    loader = data.train_dataloader()
    for number, size in enumerate((8, 16)):
        loader.sampler.set_epoch(number)
        assert {batch.images.shape[-1] for batch in loader} == {size}


def test_torchcodec_must_be_there_to_be_asked_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "torchcodec", lambda: None)
    with pytest.raises(ValueError, match="`decoder` must be auto or pil where torchcodec does not load"):
        module(root, decoder="torchcodec")
    module(root, decoder="pil")


def test_content_is_decoded_as_its_file_is(root: Path) -> None:
    for path in sorted((root / "train").rglob("*.*g")):
        assert torch.equal(decode_image(path.read_bytes()), decode_image(str(path)))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"crop_ratio": 0.0}, r"`crop_ratio` must be in \(0, 1\], got 0\.0"),
        ({"interpolation": "nearest"}, r"`interpolation` must be one of \['bilinear', 'bicubic'\], got 'nearest'"),
        ({"decoder": "cv2"}, r"`decoder` must be one of \['auto', 'torchcodec', 'pil'\], got 'cv2'"),
        ({"on_damaged": "ignore"}, r"`on_damaged` must be one of \['error', 'skip'\], got 'ignore'"),
        ({"repeats": 0}, "`repeats` must be a whole number of at least 1, got 0"),
        ({"repeats": 2}, "`repeats` must divide `batch_size` = 9, got 2"),
        ({"train_sizes": []}, "`train_sizes` must name at least one size"),
        ({"train_sizes": [0], "epochs": 3}, "`train_sizes` must be a whole number of at least 1, got 0"),
        ({"train_sizes": [8]}, "`epochs` must be the length of the training"),
    ],
)
def test_bad_options_of_images(root: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module(root, **options)
