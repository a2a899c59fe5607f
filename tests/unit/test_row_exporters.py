"""Rows as JSON and Markdown, raw samples as a tidy CSV, and what each model was made into."""

from __future__ import annotations

import csv
import json
import math
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from farm import statistics
from farm.measurement import Outcome, Samples
from results_store.collate import Collated, collate, export
from results_store.exporters import csv as csv_exporter
from results_store.exporters import samples
from results_store.store import Ending, JobResult, Store
from tests import factories


def measured(store: Store, **fields: Any) -> Collated:
    """A run of two batch sizes: the first measured twice, the second unsupported."""
    run = factories.submitted(store, optimizations=("channels_last",), batch_sizes=(1, 8), repeats=2)
    while (claim := store.claim("cpu@alpha")) is not None:
        if claim.spec.batch_size == 8:
            store.finish(claim, Ending(outcome=Outcome.UNSUPPORTED, reason="needs | openvino\nand more"))
        else:
            store.finish(claim, factories.ok(claim, **fields))
    return collate(store, run)


# ---- JSON


def test_the_json_has_the_names_and_units_of_the_csv_and_its_figures_unrounded(
    store: Store, tmp_path: Path
) -> None:
    collated = measured(store, control=factories.baseline_beside(20.0), evidence={"build": {"opset": 20}})
    found = json.loads(export(collated, tmp_path, "json").read_text())
    with export(collated, tmp_path, "csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert found["run_id"] == collated.run_id
    assert len(found["rows"]) == len(table) == 2
    for row, line in zip(found["rows"], table, strict=True):
        assert set(csv_exporter.COLUMNS) <= set(row)
        for name in csv_exporter.COLUMNS:
            if isinstance(row[name], float):
                assert float(line[name]) == pytest.approx(row[name], rel=1e-5), name
            elif row[name] is None:
                assert line[name] == "", name
    first, second = found["rows"]
    assert first["evidence"] == {"build": {"opset": 20}}
    assert first["environment"]["packages"]["torch"] == "2.14.1"
    assert first["cell"]["protocol"]["name"] == "test"
    assert len(first["job_ids"]) == 2
    assert (second["outcome"], second["latency_ms"], second["environment"]) == ("unsupported", None, None)
    assert second["reason"] == "needs | openvino\nand more"


def test_json_tells_each_reason_and_has_null_for_what_is_no_number(store: Store, tmp_path: Path) -> None:
    odd = {"share": math.nan, "list": [math.inf, 1], "compiled": False}
    collated = measured(store, evidence={"compiled": False})
    [first, second] = collated.rows
    assert first.figures is not None
    first = replace(first, figures=replace(first.figures, evidence=odd, throughput=math.nan))
    text = export(replace(collated, rows=(first, second)), tmp_path, "json").read_text()
    row = json.loads(text)["rows"][0]
    assert row["throughput_samples_sec"] is None
    assert row["evidence"] == {"share": None, "list": [None, 1], "compiled": False}
    [reason] = row["verdict_reasons"]
    assert (reason["code"], reason["level"]) == ("fallback", "INVALID")
    assert "NaN" not in text
    assert "Infinity" not in text


# ---- Markdown


def test_the_markdown_is_a_table_with_intervals_and_reasons_beneath(store: Store, tmp_path: Path) -> None:
    lines = export(measured(store), tmp_path, "markdown").read_text().splitlines()
    header, rule, first, second = (line.split(" | ") for line in lines[2:6])
    assert len(header) == len(rule) == len(first) == len(second)
    assert first[0] == r"| densenet121\_channels\_last"
    assert first[3].startswith("10.000 (9.")
    assert first[-1] == "VALID |"
    assert second[-1] == "unsupported |"
    assert lines[7] == r"- densenet121\_channels\_last batch 8 cpu: needs \| openvino and more"


def test_figures_of_invalid_rows_are_struck_through(store: Store, tmp_path: Path) -> None:
    lines = export(measured(store, evidence={"compiled": False}), tmp_path, "markdown").read_text().splitlines()
    assert "~~10.000" in lines[4]
    assert "INVALID" in lines[4]
    assert "~~" not in lines[5]


# ---- samples


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_raw_sample_has_a_row_with_its_repeat_and_its_figure(store: Store, tmp_path: Path) -> None:
    given = Samples(device_ns=(10_000_000_000_001, 5, 7), end_to_end_ns=(11, 12))
    collated = measured(store, samples=given)
    path = export(collated, tmp_path, "samples")
    assert path.name == "benchmark_samples.csv"
    rows = table(path)
    assert len(rows) == 2 * 5
    assert tuple(rows[0]) == samples.COLUMNS
    first = [row for row in rows if row["repeat"] == "0"]
    assert [row["latency_ns"] for row in first] == ["10000000000001", "5", "7", "11", "12"]
    assert [row["figure"] for row in first] == ["device"] * 3 + ["end_to_end"] * 2
    assert [row["call"] for row in first] == ["0", "1", "2", "0", "1"]
    assert {row["round"] for row in rows} == {""}
    assert {row["verdict"] for row in rows} == {"INVALID"}  # three calls are too few
    assert {row["job_id"] for row in rows} == set(collated.rows[0].job_ids)


def test_a_speed_up_can_be_made_again_from_the_rounds(store: Store, tmp_path: Path) -> None:
    collated = measured(store, control=factories.baseline_beside(20.0))
    rows = table(export(collated, tmp_path, "samples"))
    assert {row["round"] for row in rows if row["figure"] == "end_to_end"} == {""}

    def windows(repeat: str, figure: str) -> list[list[int]]:
        found: dict[str, list[int]] = {}
        for row in rows:
            if (row["repeat"], row["figure"]) == (repeat, figure):
                found.setdefault(row["round"], []).append(int(row["latency_ns"]))
        assert list(found) == [str(n) for n in range(10)]
        return list(found.values())

    ratios = [
        [
            float(np.median(b) / np.median(a))
            for a, b in zip(windows(n, "device"), windows(n, "control"), strict=True)
        ]
        for n in ("0", "1")
    ]
    assert collated.rows[0].figures is not None
    assert collated.rows[0].figures.speedup is not None
    again = statistics.paired_ratio(ratios)
    assert again is not None
    assert again[0] == pytest.approx(collated.rows[0].figures.speedup.value)


def test_samples_are_written_as_they_are_read_whatever_their_number(store: Store, tmp_path: Path) -> None:
    collated = measured(store, samples=factories.samples(calls=2_000))
    [one, *_] = list(collated.measured())

    def endless(times: int) -> Iterator[JobResult]:
        return (one for _ in range(times))

    def most(times: int) -> int:
        tracemalloc.start()
        try:
            export(replace(collated, measured=lambda: endless(times)), tmp_path, "samples")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert most(40) < 1.5 * most(4)


# ---- model_info.json


def test_what_a_model_was_made_into_is_told_by_model_and_recipe(store: Store, tmp_path: Path) -> None:
    evidence = {"weights": "trained here", "dtype": "float32", "build": {"opset": 20, "graph_nodes": 368}}
    path = export(measured(store, evidence=evidence, build_s=3.5), tmp_path, "model_info")
    assert path == tmp_path / "models" / "model_info.json"
    recipe = json.loads(path.read_text())["models"]["densenet121"]["channels_last"]
    assert recipe["parameters"] == 7_978_856
    assert recipe["weights"] == {"asked": None, "origin": "trained here"}
    assert recipe["axes"]["layout"] == "channels_last"
    [cell] = recipe["cells"]
    assert cell["input_shape"] == [1, 3, 64, 64]
    assert (cell["model_size_bytes"], cell["build_s"]) == (32 << 20, 3.5)
    assert cell["build"] == {"opset": 20, "graph_nodes": 368}


def test_a_run_of_which_nothing_was_measured_has_no_models(store: Store, tmp_path: Path) -> None:
    collated = collate(store, factories.submitted(store))
    assert json.loads(export(collated, tmp_path, "model_info").read_text())["models"] == {}
    assert export(collated, tmp_path, "samples").read_text() == f"{','.join(samples.COLUMNS)}\n"
    assert json.loads(export(collated, tmp_path, "json").read_text())["rows"][0]["outcome"] == "pending"
    assert "pending" in export(collated, tmp_path, "markdown").read_text()
