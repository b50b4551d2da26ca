"""Our layers take what torch's take, in its order and with its defaults, and options of ours by keyword alone."""

import inspect

import pytest
from torch import nn

from bnn_lightning.layers import BinaryConv1d, BinaryConv2d, BinaryConv3d, BinaryConvTranspose2d, BinaryLinear

CONV = {"input_binarizer": None, "weight_binarizer": None, "pad_value": 0.0}
PLAIN = {"input_binarizer": None, "weight_binarizer": None}


@pytest.mark.parametrize(
    ("ours", "theirs", "own"),
    [
        (BinaryConv1d, nn.Conv1d, CONV),
        (BinaryConv2d, nn.Conv2d, CONV),
        (BinaryConv3d, nn.Conv3d, CONV),
        (BinaryConvTranspose2d, nn.ConvTranspose2d, PLAIN),
        (BinaryLinear, nn.Linear, PLAIN),
    ],
)
def test_signature_is_torchs(ours: type[nn.Module], theirs: type[nn.Module], own: dict[str, object]) -> None:
    parameters, reference = (list(inspect.signature(layer).parameters.values()) for layer in (ours, theirs))
    shared, added = parameters[: len(reference)], parameters[len(reference) :]
    assert [(p.name, p.kind, p.default) for p in shared] == [(p.name, p.kind, p.default) for p in reference]
    assert {p.name: p.default for p in added} == own
    assert all(p.kind is p.KEYWORD_ONLY for p in added)
