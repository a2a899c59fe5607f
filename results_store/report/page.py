"""The page: a template with the texts, and everything that its script draws as one JSON object."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment as Templates
from jinja2 import PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from farm.measurement import Environment
from results_store.collate import Answer, Collated, Row
from results_store.exporters import _whole, profiles
from results_store.report import basis, charts, doubts
from results_store.report.answer import answer, number
from results_store.report.cells import COLUMNS, MAX_CELLS, Entry, Group, grouped
from results_store.report.costs import Pays, break_even, start_s
from results_store.report.observed import observe

#: Columns of the page's data that are reckoned from the CSV's.
DERIVED: Mapping[str, str] = {
    "start_s": "until first answer, s",
    "pays": "pays off",
    "pays_after": "pays off, samples",
}
#: Ends of the steps in which a speed-up is coloured; below 1 it is slower.
_STEPS = (1.05, 1.25, 1.6, 2.5, 5.0)
#: Traces that are linked; the folder has them all.
_MOST_TRACES = 2500


def write(collated: Collated, path: Path) -> None:
    """Writes the report of a run; the file is replaced as a whole, once everything is on the disk."""
    groups = grouped(collated.rows)
    entries = [entry for group in groups for entry in group.entries]
    observed = observe(collated, entries)
    figures = [charts.of_group(group, observed) for group in groups]
    data = {
        "columns": {**COLUMNS, **DERIVED},
        "rows": [_data_row(entry, group) for group in groups for entry in group.entries],
        "basis": [
            found
            for group in groups
            for found in basis.of_rows(group.members, [entry.row for entry in group.entries])
        ],
        "rule": basis.rule(),
        "run_id": collated.run_id,
        "groups": [_data_group(group, found) for group, found in zip(groups, figures, strict=True)],
        "run": {"drift": {"*": asdict(charts.drift(observed.drifts))}},
        **charts.SCHEME,
    }
    context = {
        "run": collated.title,
        "run_id": collated.run_id,
        "facts": _facts(collated.rows),
        "answers": [answer(group) for group in groups],
        "groups": groups,
        "goals": basis.GOALS,
        "limits": basis.limits(collated.rows),
        "matrices": [_matrix(group) for group in groups],
        "kinds": doubts.kinds(collated.rows),
        "aa": _aa(groups),
        "environments": _environments(groups),
        "protocols": _protocols(collated.rows),
        "traces": _traces(collated.rows, path.parent),
        "shown": len(entries),
        "rows": len(collated.rows),
        "most": MAX_CELLS,
    }
    save("report.html.j2", path, data, context)


def save(template: str, path: Path, data: Mapping[str, Any], context: Mapping[str, Any]) -> None:
    """Renders a template with the scripts that its charts need, into a file that is replaced as a whole.

    Args:
        template: its name beside this module.
        path: the file.
        data: what the page's script reads: values of JSON, numbers finite.
        context: what the template reads beside that; every text in it is escaped.
    """
    scripts = {"plotly": get_plotlyjs(), "script": _beside("decide.js") + _beside("page.js")}
    whole = {
        **context,
        **scripts,
        "style": _beside("page.css"),
        "data": packed(data),
        # whatever got into the page: only these two scripts are run, and nothing is fetched
        "policy": _policy(scripts.values()),
        "made_at": datetime.now(UTC).isoformat(sep=" ", timespec="seconds"),
    }
    with _whole.file(path) as file:
        for part in _templates().get_template(template).generate(whole):
            file.write(part)


def packed(value: Any) -> str:
    """A value as JSON, compressed to a tenth, in letters that can stand in a <script> and never end it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


@cache
def _templates() -> Templates:
    templates = Templates(
        loader=PackageLoader("results_store.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"number": number, "when": _when, "breakable": _breakable}
    return templates


@cache
def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _policy(scripts: Iterable[str]) -> str:
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"


# ---- what the script reads


def _data_row(entry: Entry, group: Group) -> list[Any]:
    even = break_even(entry, group.baseline(entry)) if entry.is_usable else None
    start = start_s(entry)
    derived = (
        None if start is None else float(f"{start:.6g}"),
        None if even is None else str(even),
        None if even is None else 0 if even.pays is Pays.AT_ONCE else even.samples,
    )
    return [*entry.values.values(), *derived]


def _first_shown(group: Group) -> int | None:
    """The batch size that the charts show at first: that of what has the most throughput."""
    winner = group.advice["throughput"].winner
    return winner.row.cell.batch_size if winner else next(iter(group.batches), None)


def _data_group(group: Group, found: Mapping[str, Mapping[str, charts.Chart]]) -> dict[str, Any]:
    return {
        "title": group.title,
        "place": group.place,
        "model": group.model,
        "device": group.device,
        "batches": group.batches,
        "batch": _first_shown(group),
        "bias": basis.bias(group.members, group.batches),
        "first": group.entries[0].number if group.entries else 0,
        "count": len(group.entries),
        "rows": len(group.members),
        "charts": {
            name: {batch: asdict(chart) for batch, chart in by_batch.items()} for name, by_batch in found.items()
        },
    }


# ---- what the template reads


def _facts(rows: Sequence[Row]) -> dict[str, Any]:
    """What was run where, in a few figures."""
    measured = [row.figures for row in rows if row.figures is not None]
    verdicts = Counter(str(row.verdict.level) for row in rows if row.verdict)
    cells = [row.cell for row in rows]
    return {
        "models": _each(cell.model for cell in cells),
        "recipes": len({cell.recipe for cell in cells}),
        "batches": _each(map(str, sorted({cell.batch_size for cell in cells})), most=10),
        "devices": _each(cell.device for cell in cells),
        "data": _each(f"{cell.dataset}, {cell.image_size}×{cell.image_size}" for cell in cells),
        "weights": _each(cell.weights or "trained here, or random without labels" for cell in cells),
        "protocols": _each(cell.protocol.name for cell in cells),
        "hosts": _each(figures.environment.host for figures in measured),
        "hardware": _each(figures.environment.device_model for figures in measured),
        "measured": len(measured),
        "verdicts": {level: verdicts[level] for level in ("VALID", "SUSPECT", "INVALID")},
        "repeats": sum(row.repeats_measured for row in rows),
        # a cell that was measured in two classes has two rows
        "wanted": sum({row.cell: row.repeats_wanted for row in rows}.values()),
        "pending": sum(row.repeats_pending for row in rows),
        "in_part": sum(row.figures is not None and bool(row.reason) for row in rows),
        "began": min((figures.began_at for figures in measured), default=None),
        "ended": max((figures.measured_at for figures in measured), default=None),
    }


def _each(values: Iterable[str], most: int = 6) -> str:
    """Each value once, in one line."""
    found = list(dict.fromkeys(values))
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more


def _matrix(group: Group) -> dict[str, Any]:
    """The heat map: a line for each recipe, a column for each batch size."""
    # a cell may have a row of another class too, where nothing was measured: what was measured stands
    ordered = sorted(group.entries, key=lambda entry: entry.row.figures is not None)
    by_place = {(entry.recipe, entry.batch): entry for entry in ordered}
    return {
        "group": group,
        "lines": [
            (recipe, [_heat(by_place.get((recipe, batch)), group) for batch in group.batches])
            for recipe in group.recipes
        ],
    }


def _heat(entry: Entry | None, group: Group) -> dict[str, Any] | None:
    """A cell of the heat map: what it says, and the step of its colour."""
    if entry is None:
        return None
    ends = entry.figure("speedup_low"), entry.figure("speedup_high")
    usable = entry.is_usable
    return {
        "entry": entry,
        "ratio": entry.ratio if usable else None,
        "interval": None if None in ends or not usable else ends,
        "p50": entry.figure("latency_p50_ms"),
        "answer": _MARKS.get(str(entry.values["speedup_answer"])) if usable else None,
        "step": _step(entry.ratio) if usable and entry.ratio is not None else "",
    }


#: How the answer against the control is marked in the heat map, and in words.
_MARKS = {
    str(Answer.FASTER): ("▲", "faster"),
    str(Answer.SLOWER): ("▼", "slower"),
    str(Answer.SAME): ("=", "equal"),
}


def _step(ratio: float) -> str:
    """The class of a colour: `f1` … `f5` for faster, `s1` … `s5` for slower, `e` for about equal."""
    times = max(ratio, 1 / ratio)
    reached = sum(times >= end for end in _STEPS)
    return "e" if reached == 0 else f"{'f' if ratio > 1 else 's'}{reached}"


def _aa(groups: Iterable[Group]) -> list[tuple[Group, Entry]]:
    """Rows that are their own live control: what their ratio is off 1 is the method's own error."""
    return [
        (group, entry)
        for group in groups
        for entry in group.entries
        if entry.is_usable and entry.values["control"] == entry.recipe and entry.figure("speedup") is not None
    ]


def _environments(groups: Iterable[Group]) -> list[Environment]:
    found = {group.environment.key: group.environment for group in groups if group.environment is not None}
    return list(found.values())


def _protocols(rows: Iterable[Row]) -> list[dict[str, Any]]:
    return [protocol.model_dump(mode="json") for protocol in dict.fromkeys(row.cell.protocol for row in rows)]


def _traces(rows: Iterable[Row], folder: Path) -> list[tuple[Row, str]]:
    """Rows with a trace in the folder that the report goes to, and where it lies from there."""
    there = (
        {path.name for path in (folder / profiles.FILE).glob("*")} if (folder / profiles.FILE).is_dir() else set()
    )
    found = ((row, name) for row, name in profiles.names(rows) if name in there)
    return [(row, f"{profiles.FILE}/{name}") for row, name in found][:_MOST_TRACES]


def _breakable(recipe: object) -> Markup:
    """A recipe that may go on in the next line after each of its choices, and nowhere else where that suffices."""
    return Markup("+<wbr>").join(str(recipe).split("+"))


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
