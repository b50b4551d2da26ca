"""Words that take a published run."""

from bnn_lightning.workflows.old_names import OPTIONS


def words_of_run(name: str) -> list[str]:
    """Return the words of a published run: an experiment, or the pair of model and data that an experiment was."""
    return OPTIONS.get(f"experiment={name}", f"experiment={name}").split()
