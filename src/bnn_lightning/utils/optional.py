"""Optional dependencies, imported late, with an error that names the extra."""

import importlib
from types import ModuleType


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional dependency.

    Args:
        module: Name of the module, such as `wandb`.
        extra: The extra of `setup.cfg` that installs it.

    Returns:
        The imported module.

    Raises:
        ModuleNotFoundError: It is not installed; the message holds the command that installs it.

    Example:
        >>> require("json", extra="nothing").__name__
        'json'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        message = f"`{module}` is not installed; `pip install 'bnn-lightning[{extra}]'` installs it."
        raise ModuleNotFoundError(message, name=error.name) from error
