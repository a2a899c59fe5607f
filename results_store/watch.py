"""The standing collator: writes every run that has ended, and again one that was resumed and has ended again."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from farm import logs
from farm.errors import BadInput, FarmError, Unreachable
from farm.inside import inside
from results_store.collate import collate, export, exporter
from results_store.store import EndedRun, Store, open_store

#: In a run's folder: which exporter wrote it as it was since when.
STAMP = ".collated.json"

#: A run that could not be written is tried again after so long, then after twice that, and so on.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 60.0


class LateStore:
    """A store that may not answer yet: opened by the first call that finds it there. Usable from many threads."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._store: Store | None = None

    def __call__(self) -> Store:
        """The store, open.

        Raises:
            Unreachable: not yet.
            BadInput: never, with this URL or this farm.
        """
        with self._lock:
            if self._store is None:
                self._store = open_store(self._url)
            return self._store

    def close(self) -> None:
        """Closes what is open."""
        with self._lock:
            if self._store is not None:
                self._store.close()


class Watch:
    """Rounds of looking for runs to write. Each kind of trouble is said when it begins and when it is over.

    What was written is noted beside it with the time at which the run was submitted or resumed, so no clock of
    another host is compared with ours, and another process, or this one started anew, writes nothing twice.
    """

    def __init__(
        self,
        store: Callable[[], Store],
        output_dir: Path,
        formats: Sequence[str],
        *,
        say: Callable[[str], None],
        complain: Callable[[str], None],
        health_file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is looked at yet.

        Args:
            store: gives the store, or raises `Unreachable`.
            output_dir: gets a folder for each run, called by its name or its id.
            formats: names of exporters.
            say: gets a line for each run written.
            complain: gets a line when a trouble begins and one when it is over.
            health_file: touched whenever the database has answered.
            clock: seconds, from any beginning.

        Raises:
            BadInput: no such exporter.
        """
        self._store = store
        self._output_dir = output_dir
        self._files = {name: str(exporter(name).FILE) for name in formats}
        self._say = say
        self._complain = complain
        self._health_file = health_file
        self._clock = clock
        self._stamps: dict[str, dict[str, float]] = {}
        self._troubles: dict[str, str] = {}
        #: When runs that could not be written are tried again, and how long they then wait.
        self._later: dict[str, tuple[float, float]] = {}

    def step(self) -> None:
        """One round.

        Raises:
            BadInput: the database is of a newer farm, or its URL is wrong: waiting would not help.
        """
        try:
            store = self._store()
            ended = store.ended_runs()
            self._is_well("The database")
            self._touch()
            due = [run for run in ended if self._is_due(run)]
            if due and self._can_write():
                for run in due:
                    with logs.about(run=run.run_id):
                        self._write(store, run)
                    self._touch()
        except Unreachable as error:
            self._is_ill("The database", f"{error} Trying again until it does.")

    # ---- what is to do

    def _is_due(self, run: EndedRun) -> bool:
        until, _ = self._later.get(run.run_id, (float("-inf"), 0.0))
        return self._clock() >= until and not self._is_written(run)

    def _is_written(self, run: EndedRun) -> bool:
        try:
            folder = inside(self._output_dir, run.folder)
        except BadInput:
            return False  # said when it is to be written
        if run.run_id not in self._stamps:
            self._stamps[run.run_id] = _read_stamp(folder)
        stamp = self._stamps[run.run_id]
        return all(
            stamp.get(name) == run.begun_at and (folder / file).exists() for name, file in self._files.items()
        )

    def _can_write(self) -> bool:
        """Whether the output directory can be written, found out before anything is collated for it."""
        what = f"Results folder {self._output_dir}"
        try:
            self._output_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._output_dir):
                pass
        except OSError as error:
            self._is_ill(
                what,
                f"{what} cannot be written: {error.strerror}. Let this user write it, or choose another with "
                f"--output-dir; trying again until it can be.",
            )
            return False
        self._is_well(what)
        return True

    # ---- one run

    def _write(self, store: Store, run: EndedRun) -> None:
        what = f"Run {run.title}"
        try:
            paths = self._export(store, run)
        except Unreachable:
            raise
        except Exception as error:
            # Broad: whatever is wrong with one run, the others are written.
            reason = str(error) if isinstance(error, FarmError) else f"{type(error).__name__}: {error}"
            self._is_ill(what, f"{what} cannot be written, and is tried again now and then: {reason}")
            self._put_off(run)
            return
        self._troubles.pop(what, None)
        self._later.pop(run.run_id, None)
        self._say(f"{what}: {', '.join(map(str, paths))}")

    def _export(self, store: Store, run: EndedRun) -> list[Path]:
        folder = inside(self._output_dir, run.folder)
        collated = collate(store, run.run_id)
        paths = [export(collated, folder, name) for name in self._files]
        stamp = {**_read_stamp(folder), **dict.fromkeys(self._files, run.begun_at)}
        # noted last, when everything is there
        (folder / STAMP).write_text(json.dumps(stamp))
        self._stamps[run.run_id] = stamp
        return paths

    def _put_off(self, run: EndedRun) -> None:
        _, pause = self._later.get(run.run_id, (0.0, _FIRST_PAUSE_S))
        self._later[run.run_id] = (self._clock() + pause, min(2 * pause, _LONGEST_PAUSE_S))

    # ---- what people and machines are told

    def _touch(self) -> None:
        if self._health_file is None:
            return
        what = f"Health file {self._health_file}"
        try:
            self._health_file.parent.mkdir(parents=True, exist_ok=True)
            self._health_file.touch()
        except OSError as error:
            self._is_ill(what, f"{what} cannot be touched: {error.strerror}. Set FARM_HEALTH_FILE to another.")
        else:
            self._is_well(what)

    def _is_ill(self, what: str, text: str) -> None:
        if self._troubles.get(what) != text:
            self._complain(text)
        self._troubles[what] = text

    def _is_well(self, what: str) -> None:
        if self._troubles.pop(what, None) is not None:
            self._complain(f"{what} is well again.")


def _read_stamp(folder: Path) -> dict[str, float]:
    """What is noted in a run's folder; nothing, where that cannot be read."""
    try:
        found = json.loads((folder / STAMP).read_text())
    except (OSError, ValueError):
        return {}
    return dict(found) if isinstance(found, Mapping) else {}
