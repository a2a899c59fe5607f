"""What a terminal shows of a run while it goes: workers and what they measure, verdicts as they come."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from rich.live import Live

from farm.errors import Unreachable
from farm.measurement import Outcome
from farm.verdict import Level
from producer import live, progress
from results_store.store import Ending, Store
from results_store.values import State
from tests import factories
from tests.unit.test_producer_progress import FINISHED
from tests.unit.test_producer_progress import progress as made


def printed(*parts: Any, width: int = 200) -> str:
    text = io.StringIO()
    Console(file=text, width=width).print(*parts)
    return text.getvalue()


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([], ""),
        ([1.0], ""),
        ([1.0, 2.0], "▁█"),
        ([1.0, 1.5, 2.0], "▁▅█"),
        ([1.0, 1.0], "▁▁"),
        ([1.0, 1.001], "▁▁"),
        ([0.0, 0.0], "▁▁"),
        ([float(n) for n in range(100)], "▁▂▂▃▄▄▅▅▆▇▇█"),
    ],
)
def test_a_sparkline_has_a_bar_for_each_of_the_last_values_and_noise_stays_low(
    values: list[float], shown: str
) -> None:
    assert live.sparkline(values) == shown


def test_running_jobs_stand_with_their_workers_device_and_medians_until_now() -> None:
    seen = live.Seen()
    seen.medians["densenet121_amp batch 8 cpu"].extend([0.010, 0.011, 0.020])
    idle = factories.worker("cpu@beta")
    lines = printed(live.drawn(made(), [factories.worker("cpu@alpha"), idle], seen)).splitlines()
    [busy] = [line for line in lines if line.startswith("cpu@alpha")]
    for part in ("Test CPU", "densenet121_amp batch 8 cpu #1", "10 s", "▁▂█ 20"):
        assert part in busy
    [nothing] = [line for line in lines if line.startswith("cpu@beta")]
    assert "nothing" in nothing


def test_queues_that_nobody_serves_and_workers_in_quarantine_are_told() -> None:
    broken = factories.worker("gpu@alpha", queues=("gpu",), quarantined="CUDA error")
    waiting = made(waiting={"cpu": 3, "gpu": 2})
    text = printed(live.drawn(waiting, [factories.worker(), broken]))
    assert "waiting in queues: cpu 3, gpu 2 (no living worker serves it)" in text
    assert "nothing, quarantined" in text


def test_each_part_begins_on_a_line_of_its_own() -> None:
    lines = printed(live.drawn(made(), [factories.worker("cpu@alpha")])).splitlines()
    assert lines[0].startswith("[4/10 jobs]")
    assert set(lines[1].strip()) <= set("━╸╺ ")
    assert lines[2].startswith("worker")


def test_a_farm_of_many_workers_fits_a_screen() -> None:
    many = [factories.worker(f"cpu@{n:03}") for n in range(100)]
    lines = printed(live.drawn(made(), many)).splitlines()
    assert len(lines) < 20
    assert "… and 89 more" in "".join(lines)


def test_on_a_narrow_terminal_lines_stay_lines_and_the_sparkline_is_whole() -> None:
    seen = live.Seen()
    seen.medians["densenet121_amp batch 8 cpu"].extend([0.010, 0.011, 0.020])
    workers = [factories.worker("cpu@alpha"), factories.worker("cpu@beta", device_model="A processor " * 5)]

    def table(width: int) -> list[str]:
        lines = printed(live.drawn(made(), workers, seen), width=width).splitlines()
        [first] = [number for number, line in enumerate(lines) if line.startswith("worker")]
        return lines[first:]

    assert len(table(80)) == len(table(200)) == 3
    assert max(map(len, table(80))) <= 80
    assert "▁▂█ 20" in table(80)[1]
    assert "…" in table(80)[2]


def test_names_that_look_like_markup_are_shown_as_they_are() -> None:
    text = printed(live.drawn(made(running=(("[red]job #1", "[bold]worker", 990.0),))))
    assert "[red]job" in text
    assert "[bold]worker" in text


# ---- with a store


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=160, height=40)


def shown(store: Store, run: str) -> tuple[str, live.LiveView]:
    """One round on a terminal: what it drew."""
    console = terminal()
    with Live(console=console, auto_refresh=False) as drawing:
        view = live.LiveView(drawing, store)
        view.show(store.progress(run))
    return console.file.getvalue(), view  # type: ignore[attr-defined]


def test_verdicts_are_shown_as_they_come_and_each_once(store: Store) -> None:
    run = factories.submitted(store, optimizations=("baseline", "amp"), repeats=2)
    console = terminal()
    with Live(console=console, auto_refresh=False) as drawing:
        view = live.LiveView(drawing, store)
        view.show(store.progress(run))
        assert not view._seen.told
        first, second = store.claim("cpu@alpha"), store.claim("cpu@alpha")
        assert first is not None
        assert second is not None
        store.finish(first, factories.ok(first))
        store.finish(second, Ending(outcome=Outcome.UNSUPPORTED, reason="no"))
        for _ in range(3):
            view.show(store.progress(run))
        assert [one.outcome for one in view._seen.told] == ["ok", "unsupported"]
        assert view._seen.told[0].median_s == pytest.approx(0.01, rel=0.01)
        third = store.claim("cpu@alpha")
        assert third is not None
        store.finish(third, factories.ok(third, evidence={"compiled": False}))
        view.show(store.progress(run))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for part in ("VALID", "INVALID", "unsupported", "fallback"):
        assert part in text
    # what is INVALID is in no sparkline
    assert sum(map(len, view._seen.medians.values())) == 1


def test_one_that_begins_to_watch_late_sees_the_latest_results_only(store: Store) -> None:
    run = factories.submitted(store, repeats=40)
    factories.measure_all(store, "cpu@alpha")
    _, view = shown(store, run)
    assert len(view._seen.attempts) == 12
    assert [one.job for one in view._seen.told][-1].endswith("#40")
    assert len(view._seen.medians["densenet121_baseline batch 1 cpu"]) == 12


def test_a_result_that_was_measured_again_is_shown_again(store: Store) -> None:
    run = factories.submitted(store)
    claim = store.claim("cpu@alpha")
    assert claim is not None
    store.finish(claim, factories.ok(claim, evidence={"compiled": False}))
    known = store.latest(run, limit=5)
    assert store.latest(run, limit=5, known=known) == {}
    assert store.retry(run, failed=False, remeasure=Level.INVALID).measured == 1
    claim = store.claim("cpu@alpha")
    assert claim is not None
    store.finish(claim, factories.ok(claim))
    [again] = store.latest(run, limit=5, known=known).values()
    assert again.measurement is not None
    assert again.measurement.evidence == {}


def test_a_database_that_goes_away_in_the_middle_of_a_round_is_waited_for(store: Store) -> None:
    run = factories.submitted(store)
    console = terminal()

    class Away:
        def workers(self) -> list[Any]:
            raise Unreachable("The database does not answer.")

    with Live(console=console, auto_refresh=False) as drawing:
        view = live.LiveView(drawing, store)
        view.show(store.progress(run))
        view._store = Away()  # type: ignore[assignment]
        view.show(store.progress(run))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "The database does not answer. Waiting for it." in text


def test_a_terminal_is_drawn_on_and_a_pipe_gets_lines(store: Store) -> None:
    run = factories.submitted(store)
    factories.measure_all(store, "cpu@alpha")
    console = terminal()
    assert live.show_while(console, store, run).finished
    assert "━" in console.file.getvalue()  # type: ignore[attr-defined]
    pipe = Console(file=io.StringIO(), width=200)
    live.show_while(pipe, store, run)
    assert pipe.file.getvalue().startswith("[1/1 jobs]")  # type: ignore[attr-defined]


def test_the_block_of_a_finished_run_says_so() -> None:
    assert "finished" in printed(live.drawn(made(**FINISHED)))
    assert progress.jobs_ended(made(states={State.DONE: 2})) == 2
