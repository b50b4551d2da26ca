"""Fixed statistics of frozen batch norms."""

from pytorch_lightning import Callback, LightningModule, Trainer

from bnn_lightning.layers.norm import is_frozen


class FrozenNorms(Callback):
    """Keep batch norms whose parameters are not trained in evaluation mode, so that their statistics stay as they are.

    Without it a frozen part would follow the new images through the statistics of its batch norms.
    """

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for module in pl_module.modules():
            if is_frozen(module):
                module.eval()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # which Lightning leaves out when it resumes within an epoch
