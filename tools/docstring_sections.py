"""Show the section `Example:` of docstrings as code: an extension of griffe, which knows `Examples:` alone."""

import re

import griffe


class ExampleSections(griffe.Extension):
    """Name the section as griffe reads it."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Rename the section in the docstring of an object (called by griffe)."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
