"""Plain data in, one self-contained HTML page out."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "content": ["Example", "Matrix", "RunContent", "Table"],
        "page": ["render"],
    },
)
