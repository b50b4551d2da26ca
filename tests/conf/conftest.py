import copy
from collections.abc import Callable
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from bnn_lightning.cli.config_paths import config_dir

Compose = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def composed() -> Compose:
    """Compose a configuration as a notebook does, and resolve all of it."""
    known: dict[tuple[str, ...], Any] = {}

    def composed(*overrides: str, primary: str = "train") -> dict[str, Any]:
        if (primary, *overrides) not in known:
            with initialize_config_dir(str(config_dir()), version_base="1.3"):
                config: DictConfig = compose(primary, list(overrides))
            known[(primary, *overrides)] = OmegaConf.to_container(config, resolve=True)
        return copy.deepcopy(known[(primary, *overrides)])

    return composed
