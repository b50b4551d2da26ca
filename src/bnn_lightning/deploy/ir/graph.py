"""What a packed file says that a network does: steps with one result each, in the order in which they run.

Plain data: to read a program needs neither torch nor numpy.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

_MOST = 1 << 31  # torch's kernels count in 32 bits, here and there
_MOST_ARGUMENTS, _MOST_ITEMS = 32, 64  # of a step; of a list in it
_TO_THE_END = (1 << 63) - 1  # what torch writes for the end of a slice


@dataclass(frozen=True)
class Value:
    """The result of a step: 0 is the images, n that of the n-th step, counted from 1."""

    number: int


@dataclass(frozen=True)
class Stored:
    """A tensor of the file, by its place in the table."""

    index: int


Argument: TypeAlias = "Value | Stored | int | float | bool | str | list[Argument] | None"


@dataclass(frozen=True)
class Step:
    """A call: the operation's name, and its arguments."""

    operation: str
    arguments: tuple[Argument, ...]

    def values(self) -> list[int]:
        """Return the numbers of the values that it reads."""
        return [value for argument in self.arguments for value in _values(argument)]

    def stored(self) -> list[Stored]:
        """Return the tensors of the file that it reads."""
        flat = [inner for item in self.arguments for inner in (item if isinstance(item, list) else [item])]
        return [item for item in flat if isinstance(item, Stored)]


@dataclass(frozen=True)
class Program:
    """The steps of a network; the result of the last one is the logits.

    Example:
        >>> program = Program((Step("relu", (Value(0),)), Step("add", (Value(1), Stored(0)))))
        >>> program.plain()
        [['relu', {'v': 0}], ['add', {'v': 1}, {'t': 0}]]
        >>> Program.from_plain(program.plain(), num_tensors=1) == program
        True
    """

    steps: tuple[Step, ...]

    def plain(self) -> list[Any]:
        """Return the program as plain values, for JSON."""
        return [[step.operation, *(_plain(argument) for argument in step.arguments)] for step in self.steps]

    @classmethod
    def from_plain(cls, plain: Any, *, num_tensors: int) -> "Program":
        """Undo `plain`, and check that every value exists before it is used.

        Args:
            plain: As read from JSON.
            num_tensors: Tensors in the file.

        Raises:
            ValueError: It is no program.
        """
        if not isinstance(plain, list) or not plain:
            raise ValueError("The program must be a list of steps.")
        steps = []
        for number, row in enumerate(plain, start=1):
            if not isinstance(row, list) or not row or not isinstance(row[0], str):
                raise ValueError(f"Step {number} must name an operation.")
            if len(row) > 1 + _MOST_ARGUMENTS:
                raise ValueError(f"Step {number} has {len(row) - 1} arguments, and may have {_MOST_ARGUMENTS}.")
            arguments = tuple(_argument(item, values=number, tensors=num_tensors, depth=0) for item in row[1:])
            steps.append(Step(row[0], arguments))
        return cls(tuple(steps))

    def last_uses(self) -> list[tuple[int, ...]]:
        """Return, for each step, the values that nothing needs after it."""
        last: dict[int, int] = {}
        for place, step in enumerate(self.steps):
            last.update(dict.fromkeys(step.values(), place))
        ends: list[list[int]] = [[] for _ in self.steps]
        for value, place in last.items():
            ends[place].append(value)
        return [tuple(sorted(values)) for values in ends]


def _plain(argument: Argument) -> Any:
    match argument:
        case Value(number):
            return {"v": number}
        case Stored(index):
            return {"t": index}
        case list():
            return [_plain(item) for item in argument]
    return argument


def _argument(item: Any, *, values: int, tensors: int, depth: int) -> Argument:
    match item:
        case {"v": int(number)} if len(item) == 1 and type(number) is int and 0 <= number < values:
            return Value(number)
        case {"t": int(index)} if len(item) == 1 and type(index) is int and 0 <= index < tensors:
            return Stored(index)
        case list() if len(item) > _MOST_ITEMS:
            raise ValueError(f"A list has {len(item)} items, and may have {_MOST_ITEMS}.")
        case list() if depth == 0:
            return [_argument(inner, values=values, tensors=tensors, depth=1) for inner in item]
        case int() if not (-_MOST <= item < _MOST or item == _TO_THE_END):
            raise ValueError(f"{item} is beyond what operations of torch take.")
        case None | bool() | int() | float() | str():
            return item
    raise ValueError(f"{item!r:.80} is no argument of a step.")


def _values(argument: Argument) -> list[int]:
    match argument:
        case Value(number):
            return [number]
        case list():
            return [value for item in argument for value in _values(item)]
    return []
