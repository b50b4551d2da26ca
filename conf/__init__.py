"""The Hydra tree; installed as `bnn_lightning.conf`."""

import bnn_lightning.cli.config_paths  # noqa: F401  (registers the resolver that the defaults lists use)
