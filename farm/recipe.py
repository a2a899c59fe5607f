"""A recipe: one way to run a model, at most one choice on each of five axes (pure values)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from farm.errors import BadInput, unknown

#: The axes in canonical order.
AXES = ("compression", "layout", "precision", "runtime", "allocator")

#: What an axis holds when nothing is chosen on it; all of them together are the baseline.
DEFAULTS: Mapping[str, str] = {
    "compression": "none",
    "layout": "nchw",
    "precision": "fp32",
    "runtime": "eager",
    "allocator": "pinned_malloc",
}

BASELINE = "baseline"

_CHOICE = re.compile(r"([a-z][a-z0-9_]*)(?:\(([a-z0-9.-]+)\))?")
_NUMBER = re.compile(r"[0-9]*\.?[0-9]+(e-?[0-9]+)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """The number that a choice takes in parentheses."""

    low: float
    high: float
    #: Where the choice is written without one.
    default: float
    #: What it is a share of, for people.
    of: str


class Clash(BadInput):
    """Two choices on one axis."""

    def __init__(self, problem: str, left: list[str]) -> None:
        super().__init__(problem)
        #: The recipe's text without the one and without the other.
        self.left = left


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One choice on one axis, such as `channels_last`, `pruning(0.3)` or `compile(max-autotune)`."""

    axis: str
    name: str
    #: The number or the word in parentheses; part of the job's key.
    parameter: float | str | None = None

    def __str__(self) -> str:
        if self.parameter is None:
            return self.name
        return f"{self.name}({self.parameter if isinstance(self.parameter, str) else f'{self.parameter:g}'})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Choices on different axes, in canonical order; none at all is the baseline."""

    choices: tuple[Choice, ...] = field(default=())

    def __str__(self) -> str:
        return "+".join(map(str, self.choices)) or BASELINE

    def on(self, axis: str) -> str:
        """The name chosen on an axis, or the axis's default."""
        return next((c.name for c in self.choices if c.axis == axis), DEFAULTS[axis])

    @property
    def compression(self) -> str:
        """What is done to the model before anything else: `none`, or the name of a compression."""
        return self.on("compression")

    @property
    def share(self) -> float | None:
        """The compression's number, None where it takes none."""
        found = self._parameter("compression")
        return found if isinstance(found, float) else None

    @property
    def mode(self) -> str | None:
        """The runtime's word in parentheses, None where there is none."""
        found = self._parameter("runtime")
        return found if isinstance(found, str) else None

    def _parameter(self, axis: str) -> float | str | None:
        return next((c.parameter for c in self.choices if c.axis == axis), None)

    def without(self, *axes: str) -> Recipe:
        """The same recipe with the defaults on these axes."""
        return Recipe(choices=tuple(c for c in self.choices if c.axis not in axes))

    def having(self, choice: Choice) -> Recipe:
        """The same recipe with this choice on its axis."""
        chosen = [*(c for c in self.choices if c.axis != choice.axis), choice]
        kept = [c for c in chosen if c.name != DEFAULTS[c.axis]]
        return Recipe(choices=tuple(sorted(kept, key=lambda c: AXES.index(c.axis))))

    @property
    def layout(self) -> str:
        """How activations lie in memory: `nchw` or `channels_last`."""
        return self.on("layout")

    @property
    def precision(self) -> str:
        """The arithmetic asked for."""
        return self.on("precision")

    @property
    def runtime(self) -> str:
        """What executes the model."""
        return self.on("runtime")

    @property
    def allocator(self) -> str:
        """The host allocator of the measuring process."""
        return self.on("allocator")


def parse(text: str, axis_of: Mapping[str, str]) -> Recipe:
    """The recipe written as `choice+choice`, in any order.

    Args:
        text: for example `amp+channels_last`; `baseline` stands for no choice at all.
        axis_of: every known choice and its axis.

    Raises:
        BadInput: an unknown choice, or two choices on one axis.
    """
    words = [word.strip() for word in text.strip().split("+")]
    if words == [BASELINE]:
        return Recipe()
    return _in_canonical_order(text, [_choice(text, word, axis_of) for word in words])


def _choice(text: str, word: str, axis_of: Mapping[str, str]) -> Choice:
    if word == BASELINE:
        raise BadInput(f"Recipe {text!r}: 'baseline' means no choice, so it stands alone.")
    match = _CHOICE.fullmatch(word)
    if match is None and "(" in word and word.partition("(")[0] in axis_of:
        raise BadInput(
            f"Recipe {word!r}: in parentheses stands one number or one word, such as pruning(0.3) or "
            f"compile(max-autotune)."
        )
    if match is None or match[1] not in axis_of:
        raise unknown("recipe", word, [*axis_of, BASELINE])
    return Choice(axis=axis_of[match[1]], name=match[1], parameter=_parameter(match[2]))


def _parameter(text: str | None) -> float | str | None:
    return text if text is None or _NUMBER.fullmatch(text) is None else float(text)


def _in_canonical_order(text: str, choices: list[Choice]) -> Recipe:
    taken: dict[str, Choice] = {}
    for choice in choices:
        if choice.axis in taken:
            raise _clash(text, choices, taken[choice.axis], choice)
        taken[choice.axis] = choice
    chosen = [taken[axis] for axis in AXES if axis in taken]
    return Recipe(choices=tuple(c for c in chosen if c.name != DEFAULTS[c.axis]))


def _clash(text: str, choices: list[Choice], first: Choice, second: Choice) -> Clash:
    def without(dropped: Choice) -> str:
        return "+".join(str(c) for c in choices if c is not dropped)

    if first == second:
        return Clash(f"Recipe {text!r}: {first} is there twice.", [without(second)])
    problem = f"Recipe {text!r}: {first} and {second} are both choices of {first.axis}; a recipe has one."
    return Clash(problem, [without(second), without(first)])
