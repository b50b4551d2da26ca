"""Networks trained here: packed files and weights by name, each with a receipt; no torch."""

from bnn_lightning.zoo.files import is_name, packed_file, weights_file
from bnn_lightning.zoo.receipts import File, Receipt, ZooError, names, receipt

__all__ = ["File", "Receipt", "ZooError", "is_name", "names", "packed_file", "receipt", "weights_file"]
