"""Which recipes exist and which of them can be: the one place that turns text into a checked recipe."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from farm import allocator, plugins, recipe, runtimes
from farm.errors import BadInput, Unsupported
from farm.precision import PRECISIONS
from farm.recipe import Recipe

#: Choices that are no plug-ins, with what each does.
LAYOUTS: Mapping[str, str] = {"channels_last": "activations and weights lie NHWC in memory"}
ALLOCATORS: Mapping[str, str] = {
    "pinned_malloc": "glibc's thresholds pinned high, so that the heap's history does not matter (the default)",
    "system_malloc": "glibc untouched, as a process that nobody tuned gets it",
    "jemalloc": "jemalloc instead of glibc's allocator, in the measuring process only",
}


def choices() -> dict[str, str]:
    """Every known choice and its axis."""
    return {
        **dict.fromkeys(LAYOUTS, "layout"),
        **dict.fromkeys(PRECISIONS, "precision"),
        **dict.fromkeys(runtimes.names(), "runtime"),
        **dict.fromkeys(ALLOCATORS, "allocator"),
    }


def described() -> dict[str, str]:
    """Every choice that can be loaded, with what it does."""
    return {
        **LAYOUTS,
        **{name: choice.summary for name, choice in PRECISIONS.items()},
        **{name: plugin.SUPPORT.summary for name, plugin in plugins.loadable(runtimes.__name__).items()},
        **ALLOCATORS,
    }


def why_not(name: str, devices: Sequence[str]) -> str:
    """Why a choice cannot run on a host with these devices, and what to install; empty where it can."""
    axis = choices()[name]
    asked = Recipe(choices=(recipe.Choice(axis=axis, name=name),))
    if axis == "precision" and not set(PRECISIONS[name].dtypes) & set(devices):
        return f"no: needs {' or '.join(PRECISIONS[name].dtypes)}"
    if axis == "runtime" and not set(runtimes.support(name).devices) & set(devices):
        return f"no: needs {' or '.join(runtimes.support(name).devices)}"
    try:
        require_installed(asked)
    except Unsupported as error:
        return f"no: {error}"
    return ""


def parse_recipe(text: str) -> Recipe:
    """The recipe of this text, refused where it can run on no device.

    Raises:
        BadInput: an unknown choice, two choices on one axis, or choices that exclude each other.
    """
    try:
        found = recipe.parse(text, choices())
    except recipe.Clash as clash:
        raise BadInput(f"{clash} Nearest possible: {' or '.join(_resolved(clash))}.") from None
    problem = impossible(found)
    if problem is not None:
        raise BadInput(problem)
    return found


def _resolved(clash: recipe.Clash) -> list[str]:
    """What is left when one of two that exclude each other goes, or the nearest to that."""
    near: list[str] = []
    for text in clash.left:
        with contextlib.suppress(recipe.Clash):  # a third on the same axis
            found = recipe.parse(text, choices())
            near += [str(found)] if _refused(found) is None else _nearest(found)
    return list(dict.fromkeys(near))[:3] or [recipe.BASELINE]


def impossible(asked: Recipe) -> str | None:
    """Why this recipe can run nowhere, with the nearest that can; None where it can."""
    why = _refused(asked)
    return None if why is None else f"Recipe '{asked}': {why}. Nearest possible: {' or '.join(_nearest(asked))}."


def _refused(asked: Recipe) -> str | None:
    support = runtimes.support(asked.runtime)
    for axis, offered in (("precision", support.precisions), ("layout", support.layouts)):
        chosen = asked.on(axis)
        if chosen not in offered:
            why = support.reasons.get(chosen, f"it offers {', '.join(offered)}")
            return f"{asked.runtime} does not run with {chosen}: {why}"
    return None


def _nearest(asked: Recipe) -> list[str]:
    """At most three recipes that can be: with another runtime, or without a choice."""
    others = sorted(plugins.loadable(runtimes.__name__), key=lambda name: name != recipe.DEFAULTS["runtime"])
    elsewhere = [asked.having(recipe.Choice(axis="runtime", name=name)) for name in others]
    fewer = [asked.without("precision"), asked.without("layout")]
    found = [str(near) for near in (*fewer, *elsewhere) if near != asked and _refused(near) is None]
    return list(dict.fromkeys(found))[:3] or [str(asked.without("precision", "layout"))]


def require_device(asked: Recipe, device: str) -> None:
    """Passes where the recipe's runtime and its precision run on this kind of device (`cpu` or `cuda`).

    Raises:
        Unsupported: it does not.
    """
    support = runtimes.support(asked.runtime)
    if device not in support.devices:
        raise Unsupported(f"{asked.runtime} runs on {', '.join(support.devices)}, not on {device}")
    devices = PRECISIONS[asked.precision].dtypes
    if device not in devices:
        raise Unsupported(f"{asked.precision} runs on {', '.join(devices)}, not on {device}")


def require_installed(asked: Recipe) -> None:
    """Passes where everything that the recipe needs is installed.

    Raises:
        Unsupported: something is missing; the message names it.
    """
    support = runtimes.support(asked.runtime)
    needed = (*support.requires, *support.requires_for.get(asked.precision, ()))
    missing = [name for name in needed if not plugins.installed(name)]
    if missing:
        raise Unsupported(f"{asked.runtime} needs {', '.join(missing)}: pip install {' '.join(missing)}")
    allocator.require(asked.allocator)
