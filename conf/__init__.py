"""The Hydra tree; installed as `bnn_lightning.conf`."""
