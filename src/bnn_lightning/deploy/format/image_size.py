"""Sizes of images, by the name that they have beside `info` in bnn_runtime, too, which takes the file itself."""

from bnn_lightning.utils.image_size import ImageSize as ImageSize
from bnn_lightning.utils.image_size import plain_size as plain_size
from bnn_lightning.utils.image_size import sides as sides
