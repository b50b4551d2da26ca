"""Preparation of pictures, by the name that it has beside `info` in bnn_runtime, too, which takes the file itself."""

from bnn_lightning.data.preparation import Interpolation as Interpolation
from bnn_lightning.data.preparation import Preparation as Preparation
