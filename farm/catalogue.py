"""Which recipes exist and which of them can be: the one place that turns text into a checked recipe."""

from __future__ import annotations

import contextlib
import difflib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from farm import allocator, compression, plugins, recipe, runtimes
from farm.errors import BadInput, BrokenPlugin, Unsupported
from farm.precision import PRECISIONS, Tolerance
from farm.recipe import Choice, Recipe, Share

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
        **dict.fromkeys(compression.names(), "compression"),
        **dict.fromkeys(LAYOUTS, "layout"),
        **dict.fromkeys(PRECISIONS, "precision"),
        **dict.fromkeys(runtimes.names(), "runtime"),
        **dict.fromkeys(ALLOCATORS, "allocator"),
    }


def described() -> dict[str, str]:
    """Every choice that can be loaded, a runtime's modes among them, with what it does."""
    found = dict(LAYOUTS) | {name: choice.summary for name, choice in PRECISIONS.items()} | dict(ALLOCATORS)
    for name, plugin in plugins.loadable(compression.__name__).items():
        found[_with_default(name, plugin.SUPPORT.share)] = plugin.SUPPORT.summary
    for name, plugin in plugins.loadable(runtimes.__name__).items():
        found[name] = plugin.SUPPORT.summary
        found |= {f"{name}({word})": mode.summary for word, mode in plugin.SUPPORT.modes.items()}
    return found


def _with_default(name: str, share: Share | None) -> str:
    return name if share is None else f"{name}({share.default:g})"


def why_not(text: str, devices: Sequence[str]) -> str:
    """Why a choice cannot run on a host with these devices, and what to install; empty where it can."""
    asked = _with_parameters(recipe.parse(text, choices()))
    possible = [device for device in devices if _unsupported(asked, device) is None]
    if not possible:
        return f"no: needs {' or '.join(d for d in ('cpu', 'cuda') if _unsupported(asked, d) is None)}"
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
        found = _with_parameters(recipe.parse(text, choices()))
    except recipe.Clash as clash:
        raise BadInput(f"{clash} Nearest possible: {' or '.join(_resolved(clash))}.") from None
    problem = impossible(found)
    if problem is not None:
        raise BadInput(problem)
    return found


# ---- what stands in parentheses


def _with_parameters(asked: Recipe) -> Recipe:
    return Recipe(choices=tuple(map(_settled, asked.choices)))


def _settled(choice: Choice) -> Choice:
    """The choice with the default of what it takes in parentheses, checked."""
    if choice.axis == "compression":
        share = compression.support(choice.name).share
        if share is not None:
            return replace(choice, parameter=_in_range(choice, share))
    elif choice.axis == "runtime" and choice.parameter is not None:
        modes = runtimes.support(choice.name).modes
        if choice.parameter not in modes:
            raise _no_such_mode(choice, list(modes))
        return choice
    if choice.parameter is not None:
        raise BadInput(f"Recipe '{choice}': {choice.name} takes nothing in parentheses. Write {choice.name}.")
    return choice


def _in_range(choice: Choice, share: Share) -> float:
    given = share.default if choice.parameter is None else choice.parameter
    if isinstance(given, str) or not share.low <= given <= share.high:
        raise BadInput(
            f"Recipe '{choice.name}({given})': {choice.name} takes a number from {share.low:g} to "
            f"{share.high:g} in parentheses, {share.of}, such as {choice.name}({share.default:g})."
        )
    return given


def _no_such_mode(choice: Choice, modes: list[str]) -> BadInput:
    if not modes:
        return BadInput(f"Recipe '{choice}': {choice.name} takes nothing in parentheses. Write {choice.name}.")
    near = difflib.get_close_matches(str(choice.parameter), modes, n=1, cutoff=0.5)
    hint = f" Did you mean {choice.name}({near[0]})?" if near else ""
    possible = ", ".join([choice.name, *(f"{choice.name}({mode})" for mode in modes)])
    return BadInput(f"Recipe '{choice}': no such mode.{hint} Possible: {possible}.")


# ---- what excludes what


def _resolved(clash: recipe.Clash) -> list[str]:
    """What is left when one of two that exclude each other goes, or the nearest to that."""
    near: list[str] = []
    for text in clash.left:
        with contextlib.suppress(recipe.Clash):  # a third on the same axis
            found = _with_parameters(recipe.parse(text, choices()))
            near += [str(found)] if _refused(found) is None else _nearest(found)
    return list(dict.fromkeys(near))[:3] or [recipe.BASELINE]


def impossible(asked: Recipe) -> str | None:
    """Why this recipe can run nowhere, with the nearest that can; None where it can."""
    why = _refused(asked)
    return None if why is None else f"Recipe '{asked}': {why}. Nearest possible: {' or '.join(_nearest(asked))}."


def _refused(asked: Recipe) -> str | None:
    support = runtimes.support(asked.runtime)
    offers = {"precision": support.precisions, "layout": support.layouts, "allocator": support.allocators}
    for axis, offered in offers.items():
        chosen = asked.on(axis)
        if chosen not in offered:
            why = support.reasons.get(chosen, f"it offers {', '.join(offered)}")
            return f"{asked.runtime} does not run with {chosen}: {why}"
    if asked.compression != recipe.DEFAULTS["compression"]:
        fitting = compression.support(asked.compression)
        if asked.precision not in fitting.precisions:
            why = fitting.reasons.get(asked.precision, f"it goes with {', '.join(fitting.precisions)}")
            return f"{asked.compression} does not go with {asked.precision}: {why}"
    if not any(_unsupported(asked, device) is None for device in ("cpu", "cuda")):
        return f"no device has all of it: {_unsupported(asked, 'cpu')}; {_unsupported(asked, 'cuda')}"
    return None


def _nearest(asked: Recipe) -> list[str]:
    """At most three recipes that can be, those first that keep most of what was asked."""
    found = (near for near in _neighbours(asked) if near != asked and _refused(near) is None)
    texts = list(dict.fromkeys(map(str, found)))
    return [text for text in texts if text != recipe.BASELINE][:3] or [recipe.BASELINE]


def _neighbours(asked: Recipe) -> Iterator[Recipe]:
    """With a choice less or exchanged, then with two exchanged."""
    yield from (asked.without(axis) for axis in ("allocator", "precision", "layout", "compression"))
    loadable = plugins.loadable(runtimes.__name__)
    others = sorted(loadable, key=lambda name: name != recipe.DEFAULTS["runtime"])
    elsewhere = [Choice(axis="runtime", name=name) for name in others]
    otherwise = [Choice(axis="precision", name=name) for name in PRECISIONS]
    yield from (asked.having(choice) for choice in (*elsewhere, *otherwise))
    yield from (asked.having(one).having(two) for one, two in itertools.product(otherwise, elsewhere))
    yield asked.without("precision", "layout")


def tolerance(asked: Recipe) -> Tolerance:
    """What this recipe may cost: the precision's and the compression's allowances together."""
    allowed = PRECISIONS[asked.precision].tolerance
    if asked.compression == recipe.DEFAULTS["compression"]:
        return allowed
    try:
        return allowed + compression.support(asked.compression).tolerance
    except BrokenPlugin:  # what was measured is judged also where it cannot be measured any more
        return allowed


# ---- what this host and its devices can


def require_device(asked: Recipe, device: str) -> None:
    """Passes where the recipe's runtime and its precision run on this kind of device (`cpu` or `cuda`).

    Raises:
        Unsupported: it does not.
    """
    why = _unsupported(asked, device)
    if why is not None:
        raise Unsupported(why)


def runs_on(asked: Recipe, device: str) -> bool:
    """Whether the recipe's runtime and its precision run on this kind of device (`cpu` or `cuda`) at all."""
    return _unsupported(asked, device) is None


def _unsupported(asked: Recipe, device: str) -> str | None:
    support = runtimes.support(asked.runtime)
    needs = {
        asked.runtime: support.devices,
        asked.precision: tuple(PRECISIONS[asked.precision].dtypes),
        f"{asked.precision} on {asked.runtime}": support.only_on.get(asked.precision, support.devices),
    }
    if asked.mode is not None:
        needs[f"{asked.runtime}({asked.mode})"] = support.modes[asked.mode].devices
    for what, on in needs.items():
        if device not in on:
            return f"{what} runs on {', '.join(on)}, not on {device}"
    return None


def require_installed(asked: Recipe) -> None:
    """Passes where everything that the recipe needs is installed.

    Raises:
        Unsupported: something is missing; the message names it.
    """
    for what, needed in modules(asked).items():
        _require(what, needed)
    allocator.require(asked.allocator)


def modules(asked: Recipe) -> dict[str, tuple[str, ...]]:
    """What the recipe's runtime and its compression must be able to import, by their names."""
    support = runtimes.support(asked.runtime)
    mode = () if asked.mode is None else support.modes[asked.mode].requires
    needed = {asked.runtime: (*support.requires, *support.requires_for.get(asked.precision, ()), *mode)}
    if asked.compression != recipe.DEFAULTS["compression"]:
        needed[asked.compression] = compression.support(asked.compression).requires
    return needed


def _require(what: str, modules: tuple[str, ...]) -> None:
    missing = [name for name in modules if not plugins.installed(name)]
    if "tensorrt" in missing:  # a layer of its own, pinned: another version may not fit what is built on it
        raise Unsupported(f"{what} needs tensorrt: pip install -r requirements-tensorrt.txt")
    if missing:
        packages = [name.replace("_", "-") for name in missing]
        raise Unsupported(f"{what} needs {', '.join(packages)}: pip install {' '.join(packages)}")
