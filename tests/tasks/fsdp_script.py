"""Run on two processes by test_fsdp.py: ddp and fsdp from the same start, a stop in mid-epoch, and resumes."""

import json
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from torch.distributed.tensor import DTensor

from bnn_lightning.callbacks import (
    AtomicCheckpointIO,
    BiasClip,
    EmbedConfig,
    FinalCheckpoint,
    FlipRateLogger,
    LastCheckpoint,
    LatentClip,
    RNGState,
)
from bnn_lightning.data import Augmentation, SyntheticDataModule
from bnn_lightning.models import create_backbone
from bnn_lightning.optim import default_groups, warmup_cosine
from bnn_lightning.tasks import ClassificationTask, FullyShardedStrategy

FACTS: dict[str, Any] = {}
STEP = 7  # within the second epoch of five steps


class Keep(Callback):
    """Keep the file of step 7, as a kill would leave it."""

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        last = Path(trainer.checkpoint_callback.path)
        if trainer.global_step == STEP and trainer.is_global_zero and last.is_file():
            shutil.copy(last, last.with_name("part.ckpt"))


def run(folder: Path, strategy: str, *, ckpt: Path | None = None) -> None:
    """Train two epochs of five steps, and test; note the metrics, and which parameters this rank had a share of."""
    seed_everything(1, verbose=False)
    net = create_backbone(
        "resnet18_double_skip", width=4, num_classes=4, in_channels=3, image_size=32, mean=None, std=None
    )
    task = ClassificationTask(
        net,
        num_classes=4,
        optimizer=partial(torch.optim.AdamW, lr=0.01),
        param_groups=partial(default_groups, weight_decay=1e-3),
        lr_scheduler=partial(warmup_cosine, epochs=2, warmup_epochs=1),
    )
    data = SyntheticDataModule(
        image_size=32, num_classes=4, num_train=40, num_test=13, batch_size=8, augment=Augmentation(flip=0.5)
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy=FullyShardedStrategy() if strategy == "fsdp" else strategy,
        max_epochs=2,
        gradient_clip_val=1.0,
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[AtomicCheckpointIO()],
        callbacks=[
            LatentClip(1.0),
            BiasClip(1.0),
            FlipRateLogger(),
            EmbedConfig({"name": "fsdp"}),
            RNGState(),
            LastCheckpoint(folder, every_n_steps=STEP),
            Keep(),
            FinalCheckpoint(folder),
        ],
    )
    trainer.fit(task, datamodule=data, ckpt_path=ckpt, weights_only=True)
    FACTS[folder.name] = {
        "sharded": [isinstance(p, DTensor) and p.to_local().numel() < p.numel() for p in net.parameters()],
        **{name: float(value) for name, value in trainer.callback_metrics.items()},
    }
    FACTS[folder.name] |= trainer.test(task, datamodule=data, verbose=False)[0]
    FACTS["rank"] = trainer.global_rank


def main(root: Path) -> None:
    run(root / "ddp", "ddp")
    run(root / "fsdp", "fsdp")
    run(root / "resumed", "fsdp", ckpt=root / "fsdp" / "part.ckpt")
    run(root / "resumed_by_ddp", "ddp", ckpt=root / "fsdp" / "part.ckpt")
    (root / f"rank{FACTS['rank']}.json").write_text(json.dumps(FACTS))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
