"""Data modules of other packages: exact evaluation on several ranks, and one setup for each stage."""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeVar

from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from bnn_lightning.data.base import ImageDataModule
from bnn_lightning.data.sampler import evaluation_slices

Module = TypeVar("Module", bound=LightningDataModule)


class RankLoader:
    """The batches of one rank; no `DataLoader`, so that Lightning does not put a padded sampler into it.

    Args:
        loader: Loader of all images.
        batches: Indices of the images of each batch of this rank.
    """

    def __init__(self, loader: DataLoader[Any], batches: list[list[int]]) -> None:
        self.batches = batches
        self.loader: DataLoader[Any] = DataLoader(
            loader.dataset,
            batch_sampler=batches,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            generator=loader.generator,
            prefetch_factor=loader.prefetch_factor,
            persistent_workers=loader.persistent_workers,
        )

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        return iter(self.loader)


def adapt(datamodule: Module) -> Module:
    """Prepare a data module of another package, in place; ours are returned as they are.

    Its evaluation loaders share their images between the ranks without padding: each image is scored once. (Lightning
    shards its training loader, and repeats as many images as make the shares equal, fewer than there are ranks.)
    `prepare_data` runs once, and `setup` once for each stage until its `teardown`: data are read before the training
    starts, and Lightning asks for them again.

    Args:
        datamodule: The data module, before it is attached to a trainer.
    """
    if isinstance(datamodule, ImageDataModule):
        return datamodule
    _run_once(datamodule)
    _watch_training(datamodule)
    for name in ("val_dataloader", "test_dataloader"):
        _shard(datamodule, name)
    return datamodule


def rank_loader(loader: DataLoader[Any], *, rank: int, num_ranks: int) -> "DataLoader[Any] | RankLoader":
    """Return the loader of one rank's share of the images, each of which has one rank.

    A loader of another class, or with a sampler of its own, is returned as it is: Lightning pads it, or it is sharded
    already. A warning says how many images are then counted twice.

    Args:
        loader: Evaluation loader of all images.
        rank: This rank.
        num_ranks: Number of ranks that share the images.

    Raises:
        ValueError: There are fewer images than ranks.

    Example:
        >>> loader = DataLoader(list(range(5)), batch_size=2)
        >>> [batch.tolist() for batch in rank_loader(loader, rank=1, num_ranks=2)]
        [[3], [4]]
    """
    if isinstance(loader.dataset, IterableDataset) or isinstance(loader.sampler, DistributedSampler):
        return loader
    number = len(loader.dataset)  # type: ignore[arg-type]
    batch_size = loader.batch_size or 0
    if not _is_plain(loader) or (batch_size == 1 and number % num_ranks):
        if padded := -len(loader.sampler) % num_ranks:  # type: ignore[arg-type]
            rank_zero_warn(
                f"`data`: an evaluation loader ({type(loader).__name__} with {type(loader.sampler).__name__}, "
                f"batch_size={loader.batch_size}) is padded for {num_ranks} ranks: up to {padded} images are counted "
                "twice. A plain DataLoader with batches of 2 or more images is scored exactly; so is one device."
            )
        return loader
    if loader.drop_last:
        number = number // batch_size * batch_size
    if number < num_ranks:
        raise ValueError(f"`devices` must be at most the {number} images of an evaluation set, got {num_ranks}.")
    slices = evaluation_slices(number, batch_size, rank=rank, parts=num_ranks)
    return RankLoader(loader, [list(range(part.start, part.stop)) for part in slices])


def _is_plain(loader: DataLoader[Any]) -> bool:
    sampler = loader.sampler
    whole = type(sampler) is SequentialSampler or (
        type(sampler) is RandomSampler and not sampler.replacement and len(sampler) == len(loader.dataset)  # type: ignore[arg-type]
    )
    return type(loader) is DataLoader and type(loader.batch_sampler) is BatchSampler and whole


def _shard(datamodule: LightningDataModule, name: str) -> None:
    """Replace a hook of a data module by one that returns this rank's share."""
    original: Callable[[], Any] = getattr(datamodule, name)

    @wraps(original)  # Lightning looks through it, to see whether the hook is overridden
    def sharded() -> Any:
        shares = _shares(datamodule.trainer)
        loaders = original()
        if shares is None:
            return loaders
        share = partial(rank_loader, rank=shares["rank"], num_ranks=shares["num_ranks"])
        return apply_to_collection(loaders, DataLoader, share)

    setattr(datamodule, name, sharded)


def _watch_training(datamodule: LightningDataModule) -> None:
    """Warn of training data that Lightning cannot share between ranks."""
    original: Callable[[], Any] = datamodule.train_dataloader

    def check(loader: DataLoader[Any], num_ranks: int) -> None:
        if isinstance(loader.dataset, IterableDataset):
            rank_zero_warn(
                f"`data`: {type(loader.dataset).__name__} is an IterableDataset, which Lightning does not share "
                f"between the {num_ranks} ranks: each trains on what its `__iter__` yields there. Let it skip by rank "
                "(torch.distributed.get_rank())."
            )

    @wraps(original)
    def watched() -> Any:
        shares = _shares(datamodule.trainer)
        loaders = original()
        if shares is not None:
            apply_to_collection(loaders, DataLoader, check, num_ranks=shares["num_ranks"])
        return loaders

    datamodule.train_dataloader = watched  # type: ignore[method-assign]


def _shares(trainer: Trainer | None) -> dict[str, int] | None:
    """Return rank and number of ranks, where there are several and the data module does not shard by itself."""
    if trainer is None or not trainer._accelerator_connector.use_distributed_sampler:
        return None
    given = trainer.distributed_sampler_kwargs
    if not given or given["num_replicas"] == 1:
        return None
    return {"rank": given["rank"], "num_ranks": given["num_replicas"]}


def _run_once(datamodule: LightningDataModule) -> None:
    """Let `prepare_data` run once, and `setup` once for each stage until its `teardown`."""
    prepare, setup, teardown = datamodule.prepare_data, datamodule.setup, datamodule.teardown
    done: set[str] = set()

    @wraps(prepare)
    def prepare_once() -> None:
        if "prepare_data" not in done:
            prepare()
            done.add("prepare_data")

    @wraps(setup)
    def setup_once(stage: str) -> None:
        if stage not in done:
            setup(stage=stage)
            done.add(stage)

    @wraps(teardown)
    def teardown_once(stage: str) -> None:
        teardown(stage=stage)
        done.discard(stage)

    hooks = {"prepare_data": prepare_once, "setup": setup_once, "teardown": teardown_once}
    for name, hook in hooks.items():
        setattr(datamodule, name, hook)
