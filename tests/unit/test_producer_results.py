from __future__ import annotations

import io
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console

from farm.measurement import Outcome
from producer import results
from results_store.collate import Row, collate
from results_store.store import Ending, open_store
from tests import factories

BROKEN = "fallback: the graph broke at 2 places"


def rows(folder: Path, **measured: Any) -> list[Row]:
    """One cell measured, one unsupported, one not yet."""
    with closing(open_store(f"sqlite:///{folder}/farm.db")) as store:
        run_id = store.submit(factories.matrix(batch_sizes=(1, 2, 4))).run_id
        store.register(factories.worker())
        while (claim := store.claim("cpu@alpha")) is not None:
            unsupported = Ending(outcome=Outcome.UNSUPPORTED, reason="no such\ninstruction")
            if claim.spec.batch_size < 4:  # the third stays with its worker
                store.finish(claim, factories.ok(claim, **measured) if claim.spec.batch_size == 1 else unsupported)
        return list(collate(store, run_id).rows)


def printed(found: list[Row], width: int) -> str:
    text = io.StringIO()
    Console(file=text, width=width).print(results.table(found))
    return text.getvalue()


def test_every_cell_is_a_line_with_its_figures_or_how_it_ended(tmp_path: Path) -> None:
    lines = printed(rows(tmp_path), 200).splitlines()
    assert len(lines) == 1 + 3
    assert "94.44" in lines[1]
    assert "32.00" in lines[1]
    assert lines[2].split()[-1] == "unsupported"
    assert lines[3].split()[-1] == "pending"


def test_a_narrow_terminal_still_shows_every_variant_whole(tmp_path: Path) -> None:
    assert printed(rows(tmp_path), 80).count("densenet121_baseline") == 3


def test_a_row_without_figures_has_a_note_that_says_why_on_one_line(tmp_path: Path) -> None:
    [note] = [note for note in results.notes(rows(tmp_path)) if "batch 2 " in note]
    assert note == "densenet121_baseline batch 2 cpu: no such instruction"


def test_rows_of_which_the_same_is_said_share_a_line_that_names_a_few(tmp_path: Path) -> None:
    one = rows(tmp_path, evidence={"graph_breaks": 2})[0]
    assert results.notes([one] * 2) == [f"{', '.join(['densenet121_baseline batch 1 cpu'] * 2)}: {BROKEN}"]
    [line] = results.notes([one] * 14)
    assert line.count("baseline batch 1 cpu") == 3
    assert f"cpu and 11 more: {BROKEN}" in line


def test_where_a_host_changed_without_a_live_control_the_notes_end_with_what_helps(tmp_path: Path) -> None:
    wavering = factories.samples(14.0, 11.0)
    first, *_, last = results.notes(rows(tmp_path, samples=wavering))
    assert "unstable: end to end took -21.4%" in first
    assert "--protocol standard" in last


def test_where_others_used_the_device_the_notes_name_no_protocol_for_it(tmp_path: Path) -> None:
    found = results.notes(rows(tmp_path, contention=factories.contention(others_s=0.6)))
    assert any("contaminated" in note for note in found)
    assert not any("--protocol" in note for note in found)


def test_a_measured_row_shows_its_interval_its_speed_up_and_its_verdict(tmp_path: Path) -> None:
    line = printed(rows(tmp_path, control=factories.baseline_beside(20.0)), 200).splitlines()[1]
    assert line.split()[3:7] == ["10.000", "9.986–10.014", "2.00", "(2.00–2.00)"]
    assert line.split()[-1] == "VALID"


def test_a_speed_up_without_a_live_control_says_so(tmp_path: Path) -> None:
    assert "1.00 unpaired" in printed(rows(tmp_path), 200)
