"""How a matrix becomes rows: one by one, however many there are."""

from __future__ import annotations

import tracemalloc
from collections import deque

from results_store import submitting
from tests import factories


def peak_bytes(repeats: int) -> int:
    """Of making the rows of 40 cells with so many repeats, none of which is kept."""
    matrix = factories.matrix(batch_sizes=tuple(range(1, 41)), repeats=repeats)
    tracemalloc.start()
    try:
        deque(submitting._job_rows(matrix, 1, "run", False), maxlen=0)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_rows_of_very_many_jobs_take_no_more_memory_than_those_of_few() -> None:
    peak_bytes(1)  # what is imported and cached at the first time
    assert peak_bytes(500) < peak_bytes(5) + (64 << 10)


def test_a_row_says_what_its_job_says() -> None:
    protocol = factories.PROTOCOL.model_copy(update={"control_every": 4})
    matrix = factories.matrix(
        batch_sizes=(1, 8), devices=("cpu", "cuda.h200"), threads=2, repeats=3, protocol=protocol
    )
    cells = [*matrix.cells(), *matrix.controls()]
    rows = list(submitting._job_rows(matrix, 7, "run", False))
    plan = matrix.plan()
    assert [row["ordinal"] for row in rows] == list(range(len(plan)))
    for row, spec in zip(rows, plan, strict=True):
        assert cells[row["cell_ordinal"]] == spec.cell
        assert (row["repeat"], row["key"], row["queue"], row["threads"]) == (spec.repeat, spec.key, spec.queue, 2)
        assert row["adoptable"] == (spec.protocol.name != "control")
    assert {row["adoptable"] for row in submitting._job_rows(matrix, 7, "run", True)} == {False}
