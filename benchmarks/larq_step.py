"""Training step of a ResNet-20 in larq (TensorFlow with legacy Keras), where the extra `larq` is installed.

The network of `resnet20`: 3x3 stem, nine blocks of two binary convolutions with a shortcut around each, batch norm and
hard tanh; but larq's plain `ste_sign` in the place of EDE and Libra, and float32.
"""

import os
from collections.abc import Callable
from typing import Any

CLASSES, SIZE = 10, 32


def make_step(batch: int, threads: int) -> Callable[[], None]:
    """Return a function that makes one training step: forward, cross entropy, backward, SGD with momentum.

    Args:
        batch: Images of a step.
        threads: Threads of an operation.

    Raises:
        ModuleNotFoundError: TensorFlow, tf-keras or larq is not installed.
    """
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # larq 0.14 is written for Keras 2
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import larq
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    network = _resnet20(tf, larq)
    optimizer = tf.keras.optimizers.SGD(0.01, momentum=0.9)
    loss_of = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    images, labels = tf.random.uniform((batch, SIZE, SIZE, 3)), tf.range(batch) % CLASSES

    def step() -> Any:
        with tf.GradientTape() as tape:
            loss = loss_of(labels, network(images, training=True))
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply_gradients(zip(gradients, network.trainable_variables, strict=True))
        return loss

    compiled = tf.function(step)
    return lambda: compiled().numpy()


def _resnet20(tf: Any, larq: Any) -> Any:
    layers = tf.keras.layers
    x = inputs = layers.Input((SIZE, SIZE, 3))
    x = _hard_tanh(tf, layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same", use_bias=False)(x)))
    for channels in (16, 32, 64):
        for block in range(3):
            x = _binary(tf, larq, x, channels, 2 if block == 0 and channels > 16 else 1)
            x = _binary(tf, larq, x, channels, 1)
    x = layers.BatchNormalization()(layers.GlobalAveragePooling2D()(x))
    return tf.keras.Model(inputs, layers.Dense(CLASSES)(x))


def _binary(tf: Any, larq: Any, x: Any, channels: int, stride: int) -> Any:
    quantizers = {"input_quantizer": "ste_sign", "kernel_quantizer": "ste_sign", "kernel_constraint": "weight_clip"}
    conv = larq.layers.QuantConv2D(channels, 3, stride, padding="same", use_bias=False, **quantizers)
    side = x if stride == 1 else tf.pad(x[:, ::2, ::2], [[0, 0]] * 3 + [[channels // 4, channels // 4]])
    return _hard_tanh(tf, tf.keras.layers.BatchNormalization()(conv(x)) + side)


def _hard_tanh(tf: Any, x: Any) -> Any:
    return tf.clip_by_value(x, -1.0, 1.0)
