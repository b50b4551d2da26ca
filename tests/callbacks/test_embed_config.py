import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bnn_lightning.callbacks import EmbedConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "tasks"))
from small_run import small_run

CONFIG: dict[str, Any] = {"model": {"name": "mlp", "sizes": [1, 2.5, None, True]}, "text": "a=b"}


def test_in_every_checkpoint(tmp_path: Path) -> None:
    trainer = small_run(tmp_path, epochs=1, limit_train_batches=1, limit_val_batches=1, callbacks=[EmbedConfig(CONFIG)])
    trainer.save_checkpoint(tmp_path / "full.ckpt")
    trainer.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
    names = sorted(path.name for path in tmp_path.glob("*.ckpt"))
    assert names == ["final.ckpt", "full.ckpt", "last.ckpt", "weights.ckpt"]
    for name in names:
        assert torch.load(tmp_path / name, weights_only=True)["bnn_lightning_config"] == CONFIG, name


@pytest.mark.parametrize(
    ("config", "where"),
    [({"a": {"b": [1, object()]}}, r"`config\.a\.b\[1\]`.*object"), ({"a": Path("x")}, r"`config\.a`.*PosixPath")],
)
def test_only_plain_containers(config: dict[str, Any], where: str) -> None:
    with pytest.raises(TypeError, match=where):
        EmbedConfig(config)
