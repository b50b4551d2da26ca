"""Loop over the images of a split, which every workflow that measures networks runs."""

from collections.abc import Sequence
from typing import Any, Literal

from pytorch_lightning import Callback, LightningModule, Trainer

from bnn_lightning.workflows.checks import check_data, damaged_files
from bnn_lightning.workflows.trainer import build_trainer


def show_images(
    module: LightningModule,
    datamodule: Any,
    trainer: dict[str, Any],
    *,
    stage: Literal["validate", "test"] = "test",
    images: int | None = None,
    callbacks: Sequence[Callback] = (),
) -> Trainer:
    """Show the images of a split to a module, and return the trainer, which holds the metrics.

    Args:
        module: Its step takes images and labels.
        datamodule: Data module with the images.
        trainer: Section of a configuration.
        stage: Split.
        images: Number of test images, in whole batches; None takes all.
        callbacks: Callbacks of the trainer.

    Raises:
        UserError: Missing or damaged files.
    """
    if images is not None:
        trainer = trainer | {"limit_test_batches": max(1, -(-images // datamodule.eval_batch_size))}
    runner = build_trainer(trainer, callbacks=callbacks, loggers=[])
    check_data(datamodule, runner, stage=stage)
    with damaged_files():
        (runner.test if stage == "test" else runner.validate)(module, datamodule=datamodule, verbose=False)
    return runner
