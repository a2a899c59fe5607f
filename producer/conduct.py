"""Takes a run from its submission to its CSV: in the farm that is there, or in an embedded one on this host."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from rich.console import Console, RenderableType

from farm.errors import BadInput
from farm.inside import inside
from farm.settings import Settings
from farm.spec import Matrix
from farm.verdict import Level, judge
from producer import live, local, progress, results, seats, show, submit
from results_store.collate import collate, export
from results_store.exporters import DEFAULT
from results_store.store import Store
from results_store.values import RunInfo, State, Submission

log = logging.getLogger(__name__)

#: Where a run's results go, each in a directory of its name or its id.
RESULTS = Path("results")


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What every command works with; built at the door."""

    settings: Settings
    store: Store
    console: Console

    def say(self, text: RenderableType = "") -> None:
        """Prints it as it is."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=isinstance(text, str))


#: Queues jobs of a run again, and says so; the run as it is then.
Again: TypeAlias = Callable[[Desk, RunInfo], RunInfo]


def in_the_farm(
    desk: Desk,
    matrix: Matrix,
    broker_url: str,
    *,
    name: str | None,
    again: bool,
    require_workers: bool,
    wait: bool,
    output: Path | None,
) -> int:
    """Submits to the workers that serve the broker; the exit code.

    Raises:
        BadInput: workers are required and some are missing, or the name is another run's; then nothing is written.
        Unreachable: the broker or the database went away.
    """
    living = desk.store.workers()
    missing = submit.unserved(matrix, living)
    unable = submit.unable(matrix, living)
    if require_workers and (missing or unable):
        raise BadInput("\n".join([*missing, *unable, "Nothing was submitted, because of --require-workers."]))
    environments = submit.environments_of(matrix, living)
    submission, run = submit.submit(desk.store, matrix, name=name, again=again, environments=environments)
    if run.finished:
        return _already(desk, run, output)
    _announce(desk, submission, run)
    return _send(desk, run, broker_url, missing, unable, wait=wait, output=output)


def on_this_host(
    desk: Desk, matrix: Matrix, taken: list[seats.Seat], *, name: str | None, again: bool, output: Path | None
) -> int:
    """Measures with an embedded farm; the exit code.

    Raises:
        BadInput: another embedded farm uses this data directory, or the name is another run's: nothing is written.
        FarmError: the embedded farm cannot go on.
    """
    with local.only_one(desk.settings.data_dir) as note:
        environments = seats.environments(taken)
        submission, run = submit.submit(desk.store, matrix, name=name, again=again, environments=environments)
        if run.finished:
            return _already(desk, run, output)
        note(run.run_id)
        _announce(desk, submission, run)
        return _measure_here(desk, run, taken, output)


def go_on_in_the_farm(
    desk: Desk, run_id: str, again: Again, broker_url: str, *, wait: bool, output: Path | None
) -> int:
    """Queues jobs of a run again and sends messages for all that wait; the exit code."""
    run = again(desk, desk.store.run(run_id))
    if run.finished:
        return _already(desk, run, output)
    living = desk.store.workers()
    missing = submit.unserved(run.matrix, living)
    return _send(desk, run, broker_url, missing, submit.unable(run.matrix, living), wait=wait, output=output)


def go_on_on_this_host(desk: Desk, run_id: str, again: Again, workers: int, *, output: Path | None) -> int:
    """Queues jobs of a run again and measures with an embedded farm; the exit code."""
    run = desk.store.run(run_id)
    taken = seats.seats(run.matrix, workers, desk.settings.visible_gpu)
    with local.only_one(desk.settings.data_dir) as note:
        run = again(desk, run)
        if run.finished:
            return _already(desk, run, output)
        note(run.run_id)
        return _measure_here(desk, run, taken, output)


def resumed(desk: Desk, run: RunInfo) -> RunInfo:
    """The run with its cancelled jobs queued again; says how many wait, and how many have failed."""
    queued = desk.store.resume(run.run_id)
    if queued:
        desk.say(f"Run {run.title}: {queued} of {run.jobs} jobs wait to be measured.")
    if run.states.get(State.FAILED, 0) and queued:
        desk.say(show.retry(run))
    return desk.store.run(run.run_id)


def retried(*, failed: bool, remeasure: Level | None) -> Again:
    """Queues failed jobs again, or those whose measurement has this verdict or a worse one; says how many."""

    def again(desk: Desk, run: RunInfo) -> RunInfo:
        found = desk.store.retry(run.run_id, failed=failed, remeasure=remeasure)
        asked = [f"{found.failed} failed"] * failed
        if remeasure is not None:
            asked.append(f"{found.measured} {' or '.join(_as_bad_as(remeasure))}")
        desk.say(f"Run {run.title}: jobs queued again: {', '.join(asked)}.")
        moved = _doubted_by_controls(desk, run) if remeasure is Level.SUSPECT else 0
        if moved:
            desk.say(show.moved(moved))
        return desk.store.run(run.run_id)

    return again


def _doubted_by_controls(desk: Desk, run: RunInfo) -> int:
    """How many measurements are valid themselves, and in doubt for what the run's controls took around them."""
    collated = collate(desk.store, run.run_id)
    found = (result.measurement for result in collated.measured())
    valid = (m for m in found if m is not None and judge(m).level is Level.VALID)
    return sum(collated.verdict(m).level is not Level.VALID for m in valid)


def watch(desk: Desk, run_id: str) -> int:
    """Shows a run until its end; the exit code."""
    run = desk.store.run(run_id)
    try:
        ended = live.show_while(desk.console, desk.store, run.run_id)
    except KeyboardInterrupt:
        desk.say(_goes_on(run))
        raise
    desk.say(show.ending(ended))
    for sentence in show.ways_back(ended):
        desk.say(sentence)
    desk.say(f"Results: python -m results_store collate {run.handle}")
    return show.exit_code(ended)


def _send(
    desk: Desk,
    run: RunInfo,
    broker_url: str,
    missing: list[str],
    unable: list[str],
    *,
    wait: bool,
    output: Path | None,
) -> int:
    submit.publish(desk.store, broker_url, run.run_id)
    for sentence in missing:
        desk.say(sentence)
    if missing:
        desk.say("The jobs wait until there is one.")
    for sentence in unable:
        desk.say(sentence)
    if not wait:
        desk.say(_how_to(run))
        return 0
    try:
        live.show_while(desk.console, desk.store, run.run_id)
    except KeyboardInterrupt:
        desk.say(_goes_on(run))
        raise
    return _hand_over(desk, run, output)


def _measure_here(desk: Desk, run: RunInfo, taken: list[seats.Seat], output: Path | None) -> int:
    try:
        with local.embedded(desk.settings, desk.store, taken, run.run_id, desk.say) as farm:
            submit.publish(desk.store, farm.broker_url, run.run_id)
            farm.start_workers()
            live.show_while(desk.console, desk.store, run.run_id, tend=farm.tend)
            farm.settle()
    except KeyboardInterrupt:
        desk.say("Interrupted; everything was taken down. What was measured is kept:")
        desk.say(f"the same command goes on from there, or: python -m producer resume {run.handle} --local")
        raise
    return _hand_over(desk, run, output)


def _already(desk: Desk, run: RunInfo, output: Path | None) -> int:
    done = run.states.get(State.DONE, 0)
    anew = "--again" if run.name is None else "--again under another --name"
    if done == run.jobs:
        desk.say(
            f"All {run.jobs} jobs were already measured in run {run.title}: 0 new attempts; {anew} measures anew."
        )
    else:
        desk.say(
            f"Run {run.title} has ended already, with {done} of {run.jobs} jobs measured: 0 new attempts; "
            f"{anew} measures all of them anew."
        )
    return _hand_over(desk, run, output)


def _hand_over(desk: Desk, run: RunInfo, output: Path | None) -> int:
    """Prints the results, writes the CSV, the report and what goes with them; the CSV's path is the last line."""
    ended = desk.store.progress(run.run_id)
    collated = collate(desk.store, run.run_id)
    paths = {name: export(collated, output or inside(RESULTS, run.folder), name) for name in DEFAULT}
    desk.say(results.table(collated.rows))
    for note in results.notes(collated.rows):
        desk.say(note)
    desk.say(show.ending(ended))
    for sentence in show.ways_back(ended):
        desk.say(sentence)
    log.info("run %s has ended: %s", run.run_id, paths["csv"], extra={"run": run.run_id})
    desk.say(f"For people: {paths['report']}")
    desk.say(str(paths["csv"]))
    return show.exit_code(ended)


def _announce(desk: Desk, submission: Submission, run: RunInfo) -> None:
    cells = len(run.matrix.cells())
    if submission.created:
        jobs = progress.with_controls(f"{run.jobs} jobs", run.controls)
        desk.say(f"Run {run.title}: {cells} cells, {jobs}.")
        log.info("run %s is submitted: %s", run.run_id, jobs, extra={"run": run.run_id})
        if submission.done_already:
            desk.say(f"{submission.done_already} of them were measured before and need no new attempt.")
    else:
        log.info("run %s is taken up", run.run_id, extra={"run": run.run_id})
        desk.say(f"Taking up run {run.title}: {run.states.get(State.DONE, 0)} of {run.jobs} jobs are measured.")
        for sentence in show.ways_back(run):
            desk.say(sentence)


def _as_bad_as(level: Level) -> list[str]:
    return [other for other in Level if other.severity >= level.severity]


def _how_to(run: RunInfo) -> str:
    return (
        f"See it go on:   python -m producer watch {run.handle}\n"
        f"Stop it:        python -m producer cancel {run.handle}\n"
        f"Write its CSV:  python -m results_store collate {run.handle}"
    )


def _goes_on(run: RunInfo) -> str:
    return f"No longer watching; run {run.title} goes on.\n{_how_to(run)}"
