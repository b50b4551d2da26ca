"""Options that make every registered network small, for tests that are parametrised over them."""

from typing import Any

import pytest

from bnn_lightning.models import list_backbones

# Those of 34 layers are the blocks of those of 18, and the sizes of BNext one builder.
BACKBONES = [
    name
    for name in list_backbones()
    if not name.endswith("34") and name not in ("bnext_small", "bnext_middle", "bnext_large")
]
# `make test` leaves out networks whose blocks another one has.
ONE_OF_EACH = [name if name in BACKBONES else pytest.param(name, marks=pytest.mark.slow) for name in list_backbones()]
# One of each kind of unit and of transition; the sizes of BNext are one builder.
_DEPTHS: dict[str, tuple[int, ...]] = {
    "bnext_tiny": (2, 1),
    "bnext_small": (1,),
    "bnext_middle": (1,),
    "bnext_large": (1,),
}


def small_options(name: str, **options: Any) -> dict[str, Any]:
    """Return `options` and, where a network takes it, a small depth."""
    return {**({"depths": _DEPTHS[name]} if name in _DEPTHS else {}), **options}
