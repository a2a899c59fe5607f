"""Where rows can be compared: by device and environment class, and where what was not measured belongs."""

from __future__ import annotations

from dataclasses import replace

from results_store.collate import Row
from results_store.places import placed
from tests import factories, rows

OTHER = factories.environment(device_model="Other CPU")


def elsewhere(row: Row) -> Row:
    assert row.figures is not None
    return replace(row, environment_key=OTHER.key, figures=replace(row.figures, environment=OTHER))


def test_rows_keep_their_order_and_places_come_as_their_first_row_does() -> None:
    here, there, gpu = rows.row(), elsewhere(rows.row("amp")), rows.row(device="cuda")
    again = rows.row("channels_last")
    found = placed([there, here, gpu, again])
    assert [(place.device, place.worker_class) for place in found] == [
        ("cpu", OTHER.key),
        ("cpu", here.environment_key),
        ("cuda", rows.GPU.key),
    ]
    assert list(found.values()) == [[there], [here, again], [gpu]]


def test_what_was_not_measured_goes_with_the_class_of_its_worker_else_with_the_first_of_its_device() -> None:
    here, there = rows.row(), elsewhere(rows.row())
    own = rows.unmeasured("amp", environment_key=OTHER.key)
    nobodys = rows.unmeasured("bf16", "pending", environment_key=None)
    assert list(placed([own, here, there, nobodys]).values()) == [[own, there], [here, nobodys]]


def test_a_device_on_which_nothing_was_measured_is_one_place() -> None:
    given = [rows.unmeasured("amp", environment_key=key) for key in (None, "a", "b")]
    [place] = placed(given)
    assert (place.device, place.worker_class, place.measured_class) == ("cpu", None, None)


def test_workers_of_unlike_classes_are_apart_though_their_processes_were_alike() -> None:
    here = rows.row()
    assert len(placed([here, replace(here, environment_key="other")])) == 2
