"""The charts of a report: plotly figures as plain dicts, each with its sentence and its table (pure).

Colours are Okabe and Ito's, which people of every kind of colour vision tell apart; symbol, dash or text says the
same. SUSPECT points are open, INVALID rows are in no chart. A figure has the light scheme's colours; `DARK` has
what stands in their place in the dark one.
"""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from results_store.collate import Answer
from results_store.compare import Comparison, Difference
from results_store.pareto import front
from results_store.report.answer import number
from results_store.report.cells import Entry, Group, Value
from results_store.report.costs import Pays, break_even, start_s
from results_store.report.observed import QUANTILES, Drift, Observed, Spread

_Figure: TypeAlias = Mapping[str, Any]

_INK, _MUTED, _GRID, _CONTEXT = "#1b1f24", "#57606a", "#e3e7eb", "#98a2ad"
_BLUE, _VERMILLION, _GREEN, _PURPLE, _ORANGE, _SKY = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
)
_ON_BLUE = "#ffffff"
#: What a colour becomes where the reader's scheme is dark.
DARK: Mapping[str, str] = {_INK: "#e8ebef", _MUTED: "#a7b1bc", _GRID: "#2c333c", _CONTEXT: "#66717d"}

#: Axes of every figure.
_AXIS = {
    "automargin": True,
    "gridcolor": _GRID,
    "linecolor": _MUTED,
    "zeroline": False,
    "tickfont": {"color": _MUTED},
    "title": {"standoff": 8, "font": {"color": _MUTED, "size": 12}},
}
#: What all figures have in common: plotly's `layout.template`.
TEMPLATE: Mapping[str, Any] = {
    "layout": {
        "margin": {"l": 8, "r": 12, "t": 10, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": _INK, "size": 12},
        "showlegend": False,
        "hovermode": "closest",
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        # a recipe's name, above its line
        "annotationdefaults": {
            "xref": "paper",
            "showarrow": False,
            "xanchor": "left",
            "yanchor": "bottom",
            "yshift": 6,
            "font": {"color": _INK, "size": 12},
        },
    }
}

#: What the page's script needs to draw any of them.
SCHEME: Mapping[str, Any] = {"template": TEMPLATE, "dark": DARK}

#: Colour, symbol and dash of the series that stand out: the baseline first.
_STYLES = (
    (_INK, "diamond", "dot"),
    (_BLUE, "circle", "solid"),
    (_VERMILLION, "square", "dash"),
    (_GREEN, "triangle-up", "solid"),
    (_PURPLE, "triangle-down", "dash"),
    (_ORANGE, "cross", "solid"),
    (_SKY, "x", "dash"),
)
#: Recipes beyond those are thin lines in the background; so many at most.
_MOST_BEHIND = 30
#: Recipes in a chart that has a line for each, those of the highest throughput first.
_MOST_ROWS = 30
_MOST_ON_FRONT = 20
_MOST_TICKS = 8
#: A range wider than this is drawn in logarithms.
_WIDE = 15.0
_ROW_PX, _LABEL_CHARS = 38, 52


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One chart: a figure, or why there is none."""

    #: Plotly's `data` and `layout`; None where there is nothing to draw, and `says` tells why.
    figure: _Figure | None
    #: What it shows, in a sentence or two.
    says: str
    #: Of its table: columns of the page's data with `cells`, else headings with `rows`.
    columns: tuple[str, ...] = ()
    #: Numbers of the entries in its table.
    cells: tuple[int, ...] = ()
    #: The table itself, where it is not of entries.
    rows: tuple[tuple[Value, ...], ...] = ()
    #: What the numbers in it stand for.
    points: tuple[str, ...] = ()


#: The charts of a group over all batch sizes, and those of one batch size, by name.
OVER_BATCHES: Mapping[str, Callable[[Group], Chart]]
AT_BATCH: Mapping[str, Callable[[Group, int, Observed], Chart]]


def of_group(group: Group, observed: Observed) -> dict[str, dict[str, Chart]]:
    """Every chart of a group, by name and batch size; `*` stands for all of them."""
    return {
        **{name: {"*": chart(group)} for name, chart in OVER_BATCHES.items()},
        **{
            name: {str(batch): chart(group, batch, observed) for batch in group.batches}
            for name, chart in AT_BATCH.items()
        },
    }


# ---- over batch sizes


def throughput(group: Group) -> Chart:
    """Samples per second by batch size."""
    name = "throughput_samples_sec"
    best = max(group.usable, key=lambda entry: entry.figure(name) or 0.0, default=None)
    says = ""
    if best is not None and best.figure(name) is not None:
        says = f"The most is {_told(best, name)} samples/s with {best.recipe} at batch {best.batch}."
    return _scaling(group, name, "samples/s", says, log=False)


def latency(group: Group) -> Chart:
    """Median device latency of a batch by batch size, with its 95 % interval."""
    name = "latency_p50_ms"
    timed = [entry for entry in group.usable if entry.figure(name) is not None]
    best = min(timed, key=lambda entry: entry.figure(name) or math.inf, default=None)
    says = ""
    if best is not None:
        says = f"The least is {_told(best, name)} ms with {best.recipe} at batch {best.batch}."
    return _scaling(group, name, "ms per batch (p50)", says, log=True)


def _scaling(group: Group, name: str, axis: str, says: str, *, log: bool) -> Chart:
    drawn = [entry for entry in group.usable if entry.figure(name) is not None]
    if not drawn:
        return _none(f"Nothing to draw: no row that can be trusted has {axis.partition(' (')[0]}.")
    foremost = highlighted(group)
    others = [recipe for recipe in dict.fromkeys(e.recipe for e in drawn) if recipe not in foremost]
    data = [_behind(drawn, others[:_MOST_BEHIND], name)] if others else []
    more = len(others) - _MOST_BEHIND
    cut = f"{_count(more, 'recipe')} more: in the table, not drawn." if more > 0 else ""
    data += [
        _line(group, recipe, name, axis, style)
        for recipe, style in zip(foremost, _STYLES, strict=False)
        if any(entry.recipe == recipe for entry in drawn)
    ]
    y_axis = {"type": "log", "dtick": "D2"} if log and _is_wide(drawn, name) else {"rangemode": "tozero"}
    layout = _layout(_batch_axis(group), {"title": axis, **y_axis}, 380)
    interval = ("latency_p50_low_ms", "latency_p50_high_ms") if name == "latency_p50_ms" else ()
    return Chart(
        figure={"data": data, "layout": layout},
        says=" ".join(filter(None, (says, cut, _left_out(group)))),
        columns=("optimization_technique", "batch_size", name, *interval, "verdict"),
        cells=_numbers(drawn),
    )


def highlighted(group: Group) -> tuple[str, ...]:
    """The recipes that stand out: the baseline and those of the highest throughput, one for each style."""
    best: dict[str, float] = {}
    for entry in group.usable:
        value = entry.figure("throughput_samples_sec")
        if value is not None:
            best[entry.recipe] = max(best.get(entry.recipe, 0.0), value)
    ranked = sorted((recipe for recipe in best if recipe != "baseline"), key=lambda recipe: -best[recipe])
    return ("baseline", *ranked[: len(_STYLES) - 1])


def _line(group: Group, recipe: str, name: str, axis: str, style: tuple[str, str, str]) -> dict[str, Any]:
    colour, symbol, dash = style
    found = {entry.batch: entry for entry in group.usable if entry.recipe == recipe}
    entries = [found.get(batch) for batch in group.batches]
    trace = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": _plain(recipe),
        "showlegend": True,
        "x": list(group.batches),
        "y": [None if entry is None else entry.figure(name) for entry in entries],
        "connectgaps": False,
        "line": {"color": colour, "width": 2, "dash": dash},
        "marker": {"color": colour, "size": 9, "symbol": [_symbol(symbol, entry) for entry in entries]},
        "hovertemplate": f"%{{fullData.name}}<br>batch %{{x}}: %{{y:.4g}} {axis}<extra></extra>",
    }
    if name == "latency_p50_ms":
        trace["error_y"] = _errors(entries, name, "latency_p50_low_ms", "latency_p50_high_ms", colour)
    return trace


def _behind(drawn: Sequence[Entry], recipes: Sequence[str], name: str) -> dict[str, Any]:
    """All the other recipes as one trace, with gaps between them."""
    x: list[int | None] = []
    y: list[float | None] = []
    text: list[str] = []
    for recipe in recipes:
        own = sorted((entry for entry in drawn if entry.recipe == recipe), key=lambda entry: entry.batch)
        x += [*(entry.batch for entry in own), None]
        y += [*(entry.figure(name) for entry in own), None]
        text += [*(_plain(recipe) for _ in own), ""]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": f"{len(recipes)} other recipe{'s' * (len(recipes) != 1)}",
        "showlegend": True,
        "x": x,
        "y": y,
        "text": text,
        "line": {"color": _CONTEXT, "width": 1},
        "marker": {"color": _CONTEXT, "size": 4, "symbol": "circle"},
        "hovertemplate": "%{text}<br>batch %{x}: %{y:.4g}<extra></extra>",
    }


# ---- accuracy against throughput


def tradeoff(group: Group) -> Chart:
    """Accuracy against throughput, and the front: what nothing beats in both."""
    name, axis = _right(group)
    points = [e for e in group.usable if e.figure(name) is not None and e.figure("throughput_samples_sec")]
    if not points:
        why = _why_missing(group.usable, "accuracy")
        return _none("Nothing to draw: no row that can be trusted has an accuracy and a throughput." + why)
    ahead = _ahead(points, name)
    baselines = [e for e in points if e.recipe == "baseline" and e not in ahead]
    rest = [e for e in points if e not in ahead and e not in baselines]
    data = [_dots(rest, name, "other cells", _CONTEXT, "circle", 8)] if rest else []
    data += [_dots(baselines, name, "baseline", _INK, "diamond", 11)] if baselines else []
    data += [_front(ahead, name)]
    x_axis: dict[str, Any] = {"title": "samples/s"}
    x_axis |= {"type": "log", "dtick": "D2"} if _is_wide(points, "throughput_samples_sec") else {}
    listed = ahead[:_MOST_ON_FRONT]
    said = (
        f"{len(ahead)} of {_count(len(points), 'cell')} on the front: every other is no better than one of them."
    )
    return Chart(
        figure={"data": data, "layout": _layout(x_axis, {"title": axis}, 420)},
        says=" ".join(filter(None, (said, _left_out(group)))),
        columns=(
            "optimization_technique",
            "batch_size",
            "throughput_samples_sec",
            *_with_interval(name),
            "verdict",
        ),
        cells=_numbers([*ahead, *baselines, *rest]),
        points=tuple(_on_front(entry, name, axis) for entry in listed),
    )


def _right(group: Group) -> tuple[str, str]:
    """How right a cell is: by labels where there are any, else by fp32's answers."""
    if any(entry.figure("accuracy_top1") is not None for entry in group.usable):
        return "accuracy_top1", "top-1, %"
    return "agreement_top1_pct", "same first answer as fp32, %"


def _ahead(points: Sequence[Entry], name: str) -> list[Entry]:
    """Those on the front, the fastest last."""
    values = [(e.figure("throughput_samples_sec") or 0.0, e.figure(name) or 0.0) for e in points]
    found = [points[n] for n in front(values, (1, 1))]
    return sorted(found, key=lambda entry: entry.figure("throughput_samples_sec") or 0.0)


def _front(ahead: Sequence[Entry], name: str) -> dict[str, Any]:
    trace = {
        "type": "scatter",
        "mode": "lines+markers+text",
        "name": "Pareto front",
        "showlegend": True,
        "x": [entry.figure("throughput_samples_sec") for entry in ahead],
        "y": [entry.figure(name) for entry in ahead],
        "text": [str(place + 1) if place < _MOST_ON_FRONT else "" for place in range(len(ahead))],
        "textfont": {"color": [_BLUE if entry.is_suspect else _ON_BLUE for entry in ahead], "size": 11},
        "customdata": [_label(entry) for entry in ahead],
        "line": {"color": _BLUE, "width": 2, "shape": "vh"},
        "marker": {"color": _BLUE, "size": 20, "symbol": [_symbol("circle", entry) for entry in ahead]},
        "hovertemplate": "%{customdata}<br>%{x:.4g} samples/s, %{y:.2f} %<extra></extra>",
    }
    if name == "accuracy_top1":
        trace["error_y"] = _errors(ahead, name, f"{name}_low", f"{name}_high", _BLUE)
    return trace


def _dots(entries: Sequence[Entry], name: str, said: str, colour: str, symbol: str, size: int) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": said,
        "showlegend": True,
        "x": [entry.figure("throughput_samples_sec") for entry in entries],
        "y": [entry.figure(name) for entry in entries],
        "customdata": [_label(entry) for entry in entries],
        "marker": {"color": colour, "size": size, "symbol": [_symbol(symbol, entry) for entry in entries]},
        "hovertemplate": "%{customdata}<br>%{x:.4g} samples/s, %{y:.2f} %<extra></extra>",
    }


def _on_front(entry: Entry, name: str, axis: str) -> str:
    right, speed = entry.figure(name) or 0.0, _told(entry, "throughput_samples_sec")
    interval = _between(entry, name) if name == "accuracy_top1" else ""
    said = f"{axis.partition(',')[0]} {right:.2f} %{interval}"
    return f"{entry.recipe}, batch {entry.batch}{_mark(entry)}: {speed} samples/s, {said}"


def _between(entry: Entry, name: str) -> str:
    low, high = entry.figure(f"{name}_low"), entry.figure(f"{name}_high")
    return "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"


def _with_interval(name: str) -> tuple[str, ...]:
    return (name, f"{name}_low", f"{name}_high") if name == "accuracy_top1" else (name,)


# ---- one line for each recipe, at one batch size


def spread(group: Group, batch: int, observed: Observed) -> Chart:
    """How the calls of each recipe spread: the middle half as a box, 90 % of all as whiskers, p99 as a mark."""
    every = [entry for entry in group.at(batch) if entry.number in observed.spreads]
    rows = every[:_MOST_ROWS]
    if not rows:
        return _none(f"Nothing to draw: no row that can be trusted has enough calls at batch {batch}.")
    found = [observed.spreads[entry.number] for entry in rows]
    places, q = (
        list(range(len(rows))),
        [list(values) for values in zip(*(s.quantiles_ms for s in found), strict=True)],
    )
    box = {
        "type": "box",
        "orientation": "h",
        "name": "calls",
        "showlegend": False,
        "y": places,
        "lowerfence": q[0],
        "q1": q[1],
        "median": q[2],
        "q3": q[3],
        "upperfence": q[4],
        "width": 0.34,
        "line": {"color": _BLUE, "width": 1.5},
        "fillcolor": "rgba(86,180,233,0.35)",
        "whiskerwidth": 0.6,
        "hoverinfo": "x",
    }
    tails = [entry.figure("latency_p99_ms") for entry in rows]
    p99 = {
        "type": "scatter",
        "mode": "markers",
        "name": "p99",
        "showlegend": True,
        "x": tails,
        "y": places,
        "marker": {"color": _VERMILLION, "symbol": "diamond-tall", "size": 10},
        "hovertemplate": "p99 %{x:.4g} ms<extra></extra>",
    }
    has_tails = any(value is not None for value in tails)
    tallest = max([*q[4], *(value for value in tails if value is not None)])
    axis = {"title": "ms per batch, device"}
    scale = {"type": "log", "dtick": "D2"} if tallest > _WIDE * min(q[0]) else {"rangemode": "tozero"}
    # the CSV's median, over repeats; that of all calls together is the line in the box
    medians = [
        "" if entry.figure("latency_p50_ms") is None else f" · p50 {_told(entry, 'latency_p50_ms')} ms"
        for entry in rows
    ]
    labels = [f"{_short(entry.recipe)}{_mark(entry)}{told}" for entry, told in zip(rows, medians, strict=True)]
    note = "" if has_tails else " p99 needs 662 calls of a repeat, and no row has so many."
    return Chart(
        figure={"data": [box, p99] if has_tails else [box], "layout": _row_layout(labels, axis | scale)},
        says=f"Every timed call of {_count(len(rows), 'recipe')} at batch {batch}, all repeats together: "
        f"box 25 to 75 %, whiskers 5 to 95 %.{note}{_cut(len(every))}",
        columns=("recipe", *(f"{q} % of calls within, ms" for q in QUANTILES), "p99, ms", "calls"),
        rows=tuple(_spread_row(entry, found) for entry, found in zip(rows, found, strict=True)),
    )


def _spread_row(entry: Entry, found: Spread) -> tuple[Value, ...]:
    return (entry.recipe, *found.quantiles_ms, entry.values["latency_p99_ms"], found.calls)


def _bars(name: str, missing: str, axis: str, unit: str) -> Callable[[Group, int, Observed], Chart]:
    """A chart of one quantity of each recipe."""

    def chart(group: Group, batch: int, observed: Observed) -> Chart:
        every = [entry for entry in group.at(batch) if entry.figure(name) is not None]
        rows = every[:_MOST_ROWS]
        if not rows:
            why = _why_missing([e for e in group.usable if e.batch == batch], missing)
            return _none(f"No {axis.partition(',')[0]} at batch {batch}.{why}")
        values = [entry.figure(name) or 0.0 for entry in rows]
        bar = {
            "type": "bar",
            "orientation": "h",
            "name": axis,
            "showlegend": False,
            "x": values,
            "y": list(range(len(rows))),
            "width": 0.32,
            "marker": {"color": [_INK if entry.recipe == "baseline" else _BLUE for entry in rows]},
            "hovertemplate": f"%{{x:.4g}} {unit}<extra></extra>",
        }
        labels = [
            f"{_short(entry.recipe)} · {number(value)} {unit}" for entry, value in zip(rows, values, strict=True)
        ]
        least = min(every, key=lambda entry: entry.figure(name) or 0.0)
        return Chart(
            figure={"data": [bar], "layout": _row_layout(labels, {"title": axis, "rangemode": "tozero"})},
            says=f"At batch {batch} the least is {_told(least, name)} {unit} with {least.recipe}."
            + _cut(len(every)),
            columns=("optimization_technique", "batch_size", name, "verdict"),
            cells=_numbers(rows),
        )

    return chart


def start(group: Group, batch: int, observed: Observed) -> Chart:
    """Seconds until the first answer, part by part."""
    every = [entry for entry in group.at(batch) if start_s(entry) is not None]
    rows = every[:_MOST_ROWS]
    if not rows:
        return _none(f"Nothing to draw: no row that can be trusted was measured at batch {batch}.")
    parts = (
        ("build", "build_time_s", 1.0, _BLUE, ""),
        ("load", "load_s", 1.0, _ORANGE, "/"),
        ("first call", "first_call_ms", 1e3, _GREEN, "x"),
    )
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": said,
            "showlegend": True,
            "x": [_rounded((entry.figure(name) or 0.0) / scale) for entry in rows],
            "y": list(range(len(rows))),
            "width": 0.32,
            "marker": {
                "color": colour,
                "pattern": {"shape": shape, "fillmode": "replace", "fgcolor": colour, "solidity": 0.5, "size": 6},
            },
            "hovertemplate": f"{said} %{{x:.3g}} s<extra></extra>",
        }
        for said, name, scale, colour, shape in parts
    ]
    labels = [f"{_short(entry.recipe)} · {number(start_s(entry) or 0.0)} s" for entry in rows]
    layout = _row_layout(labels, {"title": "seconds until the first answer", "rangemode": "tozero"})
    longest = max(every, key=lambda entry: start_s(entry) or 0.0)
    return Chart(
        figure={"data": data, "layout": {**layout, "barmode": "stack"}},
        says=f"The longest is {number(start_s(longest) or 0.0)} s for {longest.recipe}. An artifact is built once "
        f"for a host and kept; load and first call come with every start.{_cut(len(every))}",
        columns=("optimization_technique", "batch_size", "build_time_s", "load_s", "first_call_ms", "verdict"),
        cells=_numbers(rows),
    )


def pays(group: Group, batch: int, observed: Observed) -> Chart:
    """Samples after which a recipe has been quicker than its baseline, start included."""
    every = [entry for entry in group.at(batch) if entry.recipe != "baseline"]
    found = [(entry, break_even(entry, group.baseline(entry))) for entry in every[:_MOST_ROWS]]
    table = tuple(
        (entry.recipe, str(even.pays), even.samples, even.low, even.high, even.why) for entry, even in found
    )
    columns = ("recipe", "pays off", "samples", "from", "to", "why")
    after = [(entry, even) for entry, even in found if even.pays is Pays.AFTER]
    counted = Counter(even.pays for _, even in found if even.pays is not Pays.AFTER)
    others = ", ".join(f"{_count(count, 'recipe')}: {pays}" for pays, count in counted.items())
    said = (f" Of the others {others}." if others else "") + _cut(len(every))
    if not after:
        return Chart(
            figure=None, says=f"No recipe pays off later at batch {batch}.{said}", columns=columns, rows=table
        )
    dots = {
        "type": "scatter",
        "mode": "markers",
        "name": "break-even",
        "showlegend": False,
        "x": [even.samples for _, even in after],
        "y": list(range(len(after))),
        "marker": {"color": _BLUE, "size": 11, "symbol": [_symbol("circle", entry) for entry, _ in after]},
        "hovertemplate": "%{x:,} samples<extra></extra>",
    }
    if any(even.low is not None for _, even in after):
        dots["error_x"] = {
            "type": "data",
            "symmetric": False,
            "array": [_beyond(even.samples, even.high) for _, even in after],
            "arrayminus": [_beyond(even.low, even.samples) for _, even in after],
            "color": _BLUE,
            "thickness": 1.5,
            "width": 4,
        }
    labels = [f"{_short(entry.recipe)}{_mark(entry)} · {even.samples:,}" for entry, even in after]
    axis: dict[str, Any] = {
        "title": "samples until it pays off",
        "type": "log",
        "dtick": 1,
        "exponentformat": "SI",
    }
    samples = [even.samples or 1 for _, even in after]
    axis["range"] = [math.floor(math.log10(max(1, min(samples)))), math.ceil(math.log10(max(samples) * 1.05))]
    return Chart(
        figure={"data": [dots], "layout": _row_layout(labels, axis)},
        says=f"At batch {batch}, from the time a sample takes less and what the start takes longer.{said}",
        columns=columns,
        rows=table,
    )


def _beyond(low: int | None, high: int | None) -> int | None:
    return None if low is None or high is None else high - low


# ---- drift


def drift(drifts: Sequence[Drift]) -> Chart:
    """What controls took over time, relative to the median of those like them."""
    if not drifts:
        return _none(
            "Nothing to draw: this run has no two controls alike. `standard` measures one beside each cell; "
            "`quick` measures the baseline again where a device has five jobs or more."
        )
    data: list[dict[str, Any]] = []
    for (colour, symbol, dash), found in zip(_STYLES[1:], drifts, strict=False):
        data += _band(found, colour) if found.low else []
        data.append(
            {
                "type": "scatter",
                "mode": "lines" if found.low else "markers",
                "name": _plain(found.device),
                "showlegend": True,
                "x": list(found.minutes),
                "y": list(found.percent),
                "line": {"color": colour, "width": 2, "dash": dash},
                "marker": {"color": colour, "size": 8, "symbol": symbol},
                "hovertemplate": "%{x:.1f} min: %{y:+.2f} %<extra></extra>",
            }
        )
    layout = _layout({"title": "minutes since the first control"}, {"title": "off the median, %"}, 320)
    layout["yaxis"] |= {"zeroline": True, "zerolinecolor": _MUTED, "zerolinewidth": 1}
    told = "; ".join(
        f"{found.device}: {found.count} controls, from {min(found.low or found.percent):+.1f} to "
        f"{max(found.high or found.percent):+.1f} %"
        for found in drifts[: len(_STYLES) - 1]
    )
    more = f" {len(drifts) - len(_STYLES) + 1} more devices are left out." if len(drifts) >= len(_STYLES) else ""
    return Chart(
        figure={"data": data, "layout": layout},
        says=f"How far the same work was off its own median while the run went on. {told}.{more}",
        columns=("device", "minutes", "off the median, %", "10 % of controls under", "90 % under"),
        rows=tuple(row for found in drifts[: len(_STYLES) - 1] for row in _drift_rows(found)),
    )


def _band(found: Drift, colour: str) -> list[dict[str, Any]]:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    outline = {
        "type": "scatter",
        "mode": "lines",
        "name": "middle 80 %",
        "showlegend": False,
        "x": [*found.minutes, *reversed(found.minutes)],
        "y": [*found.high, *reversed(found.low)],
        "fill": "toself",
        "fillcolor": f"rgba({red},{green},{blue},0.2)",
        "line": {"width": 0},
        "hoverinfo": "skip",
    }
    return [outline]


def _drift_rows(found: Drift) -> Iterable[tuple[Value, ...]]:
    for place, (minutes, percent) in enumerate(zip(found.minutes, found.percent, strict=True)):
        ends = (found.low[place], found.high[place]) if found.low else (None, None)
        yield (found.device, minutes, percent, *ends)


# ---- two runs


def changes(comparisons: Sequence[Comparison]) -> Chart:
    """The change of every cell's time from one run to another, with its interval."""
    told = [one for one in comparisons if one.difference is not None]
    if not told:
        return _none("Nothing to draw: of no cell could it be told. The table says why.")
    ranked = sorted(told, key=lambda one: -abs(one.difference.middle if one.difference else 0.0))
    rows = sorted(ranked[:_MOST_ROWS], key=lambda one: one.difference.middle if one.difference else 0.0)
    signs = {
        Answer.FASTER: ("faster", _BLUE, "triangle-down"),
        Answer.SLOWER: ("slower", _VERMILLION, "triangle-up"),
        Answer.SAME: ("no difference found", _INK, "circle"),
    }
    data = []
    for answer, (said, colour, symbol) in signs.items():
        own = [
            (place, one.difference) for place, one in enumerate(rows) if one.answer is answer and one.difference
        ]
        if own:
            data.append(_changes_of(own, said, colour, symbol))
    labels = _labels(rows)
    layout = _row_layout(labels, {"title": "change of time, % (less is faster)"})
    layout["xaxis"] |= {"zeroline": True, "zerolinecolor": _MUTED, "zerolinewidth": 1}
    more = f" The {_MOST_ROWS} that changed most; {len(told) - len(rows)} more are in the table." * (
        len(told) > len(rows)
    )
    columns = ("cell", "answer", "change, %", "low, %", "high, %", "found from, %")
    return Chart(
        figure={"data": data, "layout": layout},
        says=f"{_count(len(told), 'cell')} could be told; each with the interval that decides.{more}",
        columns=columns,
        rows=tuple(_change_row(one, label) for one, label in zip(rows, labels, strict=True)),
    )


def _labels(rows: Sequence[Comparison]) -> list[str]:
    """What each cell is called: its recipe, and what they do not all have in common."""
    parts = [(one.cell.model, f"batch {one.cell.batch_size}", one.cell.device) for one in rows]
    varied = [len(set(values)) > 1 for values in zip(*parts, strict=True)]
    told = [", ".join(text for text, is_told in zip(own, varied, strict=True) if is_told) for own in parts]
    return [
        " · ".join(filter(None, (_short(str(one.cell.recipe)), text)))
        for one, text in zip(rows, told, strict=True)
    ]


def _changes_of(own: Sequence[tuple[int, Difference]], said: str, colour: str, symbol: str) -> dict[str, Any]:
    middles = [_percent(found.middle) for _, found in own]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": said,
        "showlegend": True,
        "x": middles,
        "y": [place for place, _ in own],
        "marker": {"color": colour, "size": 11, "symbol": symbol},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [_rounded(_percent(found.high) - _percent(found.middle)) for _, found in own],
            "arrayminus": [_rounded(_percent(found.middle) - _percent(found.low)) for _, found in own],
            "color": colour,
            "thickness": 1.5,
            "width": 4,
        },
        "hovertemplate": f"%{{x:+.2f}} %, {said}<extra></extra>",
    }


def _change_row(one: Comparison, label: str) -> tuple[Value, ...]:
    found = one.difference
    if found is None:
        return (label, str(one.answer), None, None, None, None)
    logs = (found.middle, found.low, found.high, found.detectable)
    return (label, str(one.answer), *(_percent(log) for log in logs))


def _percent(log_ratio: float) -> float:
    return _rounded(100 * math.expm1(log_ratio))


# ---- what charts share


def _layout(x: Mapping[str, Any], y: Mapping[str, Any], height: int) -> dict[str, Any]:
    """What a chart has beside `TEMPLATE`."""
    return {"height": height, "xaxis": _axis(x), "yaxis": _axis(y)}


def _axis(given: Mapping[str, Any]) -> dict[str, Any]:
    return {**given, "title": {"text": given["title"]}} if "title" in given else dict(given)


def _row_layout(labels: Sequence[str], x: Mapping[str, Any]) -> dict[str, Any]:
    """For a chart with a line for each recipe, whose name stands above it: so it fits into any width."""
    y_axis = {"range": [len(labels) - 0.4, -0.75], "showgrid": False, "showticklabels": False, "fixedrange": True}
    layout = _layout(x, y_axis, 64 + _ROW_PX * len(labels))
    layout["annotations"] = [{"x": 0, "y": place, "text": _plain(label)} for place, label in enumerate(labels)]
    return layout


def _batch_axis(group: Group) -> dict[str, Any]:
    batches = group.batches
    ends = (math.log10(batches[0] / 1.4), math.log10(batches[-1] * 1.4))
    # no more than a phone has room for
    apart = (batches[-1] / batches[0]) ** (1 / _MOST_TICKS)
    ticks: list[int] = []
    for batch in batches:
        if not ticks or batch >= ticks[-1] * apart:
            ticks.append(batch)
    return {
        "title": "batch size",
        "type": "log",
        "tickvals": ticks,
        "ticktext": [str(batch) for batch in ticks],
        "range": [round(end, 4) for end in ends],
    }


def _errors(entries: Sequence[Entry | None], name: str, low: str, high: str, colour: str) -> dict[str, Any]:
    def apart(more: str, less: str) -> list[float | None]:
        pairs = [(e.figure(more), e.figure(less)) if e is not None else (None, None) for e in entries]
        return [None if a is None or b is None else _rounded(max(0.0, a - b)) for a, b in pairs]

    return {
        "type": "data",
        "symmetric": False,
        "array": apart(high, name),
        "arrayminus": apart(name, low),
        "color": colour,
        "thickness": 1,
        "width": 3,
    }


def _none(why: str) -> Chart:
    return Chart(figure=None, says=why)


def _left_out(group: Group) -> str:
    """What a chart does not show."""
    invalid = sum(entry.row.is_invalid for entry in group.entries)
    return f"{_count(invalid, 'row')} INVALID, not drawn." if invalid else ""


def _cut(count: int) -> str:
    """That not all of so many have a line."""
    more = count - _MOST_ROWS
    return f" The {_MOST_ROWS} of the highest throughput; {more} more are among all cells." if more > 0 else ""


def _why_missing(entries: Iterable[Entry], name: str) -> str:
    """What most of the rows say of an empty figure."""
    found = Counter(
        why for entry in entries if entry.row.figures and (why := entry.row.figures.missing.get(name)) is not None
    )
    return f" Why: {' '.join(found.most_common(1)[0][0].split())}." if found else ""


def _is_wide(entries: Iterable[Entry], name: str) -> bool:
    values = [value for entry in entries if (value := entry.figure(name))]
    return bool(values) and max(values) > _WIDE * min(values)


def _symbol(symbol: str, entry: Entry | None) -> str:
    return f"{symbol}-open" if entry is not None and entry.is_suspect else symbol


def _mark(entry: Entry) -> str:
    return " (SUSPECT)" if entry.is_suspect else ""


def _label(entry: Entry) -> str:
    return _plain(f"{entry.recipe}, batch {entry.batch}{_mark(entry)}")


def _told(entry: Entry, name: str) -> str:
    return number(entry.figure(name) or 0.0)


def _short(recipe: str) -> str:
    return recipe if len(recipe) <= _LABEL_CHARS else f"{recipe[: _LABEL_CHARS - 1]}…"


def _plain(text: str) -> str:
    """A text as plotly shows it: it takes tags for tags."""
    return html.escape(text, quote=False)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _numbers(entries: Iterable[Entry]) -> tuple[int, ...]:
    return tuple(entry.number for entry in entries)


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


OVER_BATCHES = {"throughput": throughput, "latency": latency, "tradeoff": tradeoff}
AT_BATCH = {
    "ram": _bars("ram_usage_mb", "ram_usage", "host memory, MiB", "MiB"),
    "vram": _bars("vram_usage_mb", "vram_usage", "GPU memory, MiB", "MiB"),
    "size": _bars("model_size_mb", "model_size", "model size, MiB", "MiB"),
    "energy": _bars("energy_per_sample_j", "energy", "energy, J per sample", "J"),
    "spread": spread,
    "start": start,
    "pays": pays,
}
