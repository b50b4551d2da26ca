"""Write weights of larq-zoo's own networks, images, and the logits that larq has for them: what tests compare with.

Needs the extra `larq`, and larq-zoo: `pip install --no-deps larq-zoo zookeeper`. Weights are random, as are the
statistics of batch norms.

    python -m tools.write_larq_zoo tests/models/larq_zoo    # the thin QuickNet of the tests
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

# Our name, and the function of larq-zoo.
NETWORKS = {
    "quicknet_small": "sota.QuickNetSmall",
    "quicknet": "sota.QuickNet",
    "quicknet_large": "sota.QuickNetLarge",
    "binarydensenet28": "literature.BinaryDenseNet28",
    "binarydensenet37": "literature.BinaryDenseNet37",
    "binarydensenet45": "literature.BinaryDenseNet45",
    "meliusnet22": "literature.MeliusNet22",
    "binary_alexnet": "literature.BinaryAlexNet",
    "binary_resnet_e18": "literature.BinaryResNetE18",
}
THIN = {"section_filters": (4, 8, 16, 32), "section_blocks": (1, 1, 1, 2), "input_shape": (32, 32, 3), "num_classes": 5}


def larq_zoo() -> Any:
    """Import larq-zoo with the Keras that larq is written for."""
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    import larq_zoo

    return larq_zoo


def maker(name: str) -> Callable[[], Any]:
    """Return the function that makes one of larq-zoo's networks with random weights."""
    module, function = NETWORKS[name].split(".")
    return partial(getattr(getattr(larq_zoo(), module), function), weights=None)


def write(make: Callable[[], Any], path: Path, number: int = 2) -> None:
    """Draw statistics of batch norms, and write weights (`path`), images and logits (`path` as .npz).

    Logits are computed in float64: in float32 a sum near 0 may have another sign where it is added in another order.
    """
    from tensorflow import keras

    network, draw = make(), np.random.default_rng(0)
    for variable in network.weights:
        kind = variable.name.rpartition("/")[2]
        if kind.startswith(("moving_variance", "gamma")):
            variable.assign(draw.uniform(0.5, 1.5, variable.shape))
        elif kind.startswith(("moving_mean", "beta", "bias")):
            variable.assign(0.1 * draw.standard_normal(variable.shape))
    network.save_weights(str(path))
    images = draw.integers(0, 256, (number, *network.input_shape[1:]), dtype=np.uint8)
    keras.backend.set_floatx("float64")
    try:
        precise = make()
        precise.set_weights(network.get_weights())
        logits = keras.Model(precise.input, precise.layers[-1].input)  # without the softmax
        found = logits(images.astype(np.float64) / 255, training=False).numpy()
    finally:
        keras.backend.set_floatx("float32")
    np.savez_compressed(path.with_suffix(".npz"), images=images.transpose(0, 3, 1, 2), logits=found)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    thin = larq_zoo().sota.quicknet.QuickNetFactory
    write(lambda: thin(weights=None, **THIN).build(), folder / "quicknet_thin.h5")
