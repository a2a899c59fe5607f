"""TensorBoard's logs: which there are, what they show of a row, and what they do not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from farm.measurement import Memory, Outcome, Samples
from results_store.collate import collate, export
from results_store.exporters import tensorboard
from results_store.store import Ending, JobResult, Store
from tests import factories

ROOT = Path(__file__).resolve().parents[2]
OTHER = factories.environment(device_model="Other CPU")


def written(store: Store, run_id: str, folder: Path) -> dict[str, Any]:
    """Every log as TensorBoard reads it, by its folder."""
    path = export(collate(store, run_id), folder, "tensorboard")
    assert path == folder / "tensorboard"
    logs = {str(file.parent.relative_to(path)): file.parent for file in path.rglob("*tfevents*")}
    return {name: EventAccumulator(str(log)).Reload() for name, log in logs.items()}


def points(log: Any, tag: str) -> dict[int, float]:
    return {event.step: event.value for event in log.Scalars(tag)}


def verdicts(log: Any) -> dict[int, str]:
    return {event.step: event.tensor_proto.string_val[0].decode() for event in log.Tensors("verdict")}


def test_every_variant_has_a_log_with_its_figures_by_batch_size(store: Store, tmp_path: Path) -> None:
    run = factories.submitted(store, optimizations=("baseline", "channels_last+amp"), batch_sizes=(8, 1))
    while (claim := store.claim("cpu@alpha")) is not None:
        milliseconds = 10.0 * claim.spec.batch_size
        ending = factories.ok(
            claim,
            samples=factories.samples(milliseconds, milliseconds + 1, calls=1500),
            memory=Memory(floor_bytes=200 << 20, peak_bytes=300 << 20),
            build_s=33.0,
            build_spent_s=33.0,
            control=factories.baseline_beside(2 * milliseconds, calls=1500),
        )
        store.finish(claim, ending)
    logs = written(store, run, tmp_path)
    assert sorted(logs) == ["densenet121_baseline/cpu", "densenet121_channels_last+amp/cpu"]
    log = logs["densenet121_channels_last+amp/cpu"]
    assert sorted(log.Tags()["scalars"]) == sorted(tensorboard.SCALARS)
    assert points(log, "latency_ms/p50") == pytest.approx({1: 10, 8: 80}, rel=0.02)
    assert points(log, "latency_ms/p50")[1] < points(log, "latency_ms/p90")[1] <= points(log, "latency_ms/p99")[1]
    assert points(log, "end_to_end_ms/p50") == pytest.approx({1: 11, 8: 81}, rel=0.02)
    assert points(log, "speedup/paired") == pytest.approx({1: 2, 8: 2}, rel=0.01)
    assert points(log, "throughput/samples_per_s") == pytest.approx({1: 100, 8: 100}, rel=0.02)
    assert points(log, "accuracy/top1_pct") == pytest.approx({1: 94.44, 8: 94.44}, rel=1e-3)
    assert points(log, "memory/ram_mib") == {1: 100, 8: 100}
    assert points(log, "model/size_mib") == {1: 32, 8: 32}
    assert points(log, "model/build_s") == {1: 33, 8: 33}
    assert verdicts(log) == dict.fromkeys((1, 8), "**VALID**, 1 of 1 repeats measured")
    # of a tag whose steps went back TensorBoard would keep the last one only
    assert [event.step for event in log.Scalars("latency_ms/p50")] == [1, 8]
    assert {event.wall_time for event in log.Scalars("latency_ms/p50")} == {1000.0}


def test_histograms_hold_the_raw_samples_of_all_repeats_in_milliseconds(store: Store, tmp_path: Path) -> None:
    run = factories.submitted(store, repeats=2)
    for milliseconds in (10, 30):
        claim = store.claim("cpu@alpha")
        assert claim is not None
        samples = Samples(device_ns=(milliseconds * 1_000_000,) * 50, end_to_end_ns=(70_000_000,) * 60)
        assert store.finish(claim, factories.ok(claim, samples=samples))
    [log] = written(store, run, tmp_path).values()
    assert sorted(log.Tags()["histograms"]) == ["samples/device_ms", "samples/end_to_end_ms"]
    [device] = log.Histograms("samples/device_ms")
    found = device.histogram_value
    assert (device.step, found.min, found.max, found.num) == (1, 10, 30, 100)
    assert (found.sum, found.sum_squares) == (50 * 10 + 50 * 30, 50 * 100 + 50 * 900)
    counts = dict(zip(found.bucket_limit, found.bucket, strict=True))
    assert sum(count for limit, count in counts.items() if limit < 20) == 50
    assert found.bucket[-1] == 50
    [end_to_end] = log.Histograms("samples/end_to_end_ms")
    assert end_to_end.histogram_value.num == 120


def test_an_invalid_row_is_not_drawn_but_its_verdict_is_told(store: Store, tmp_path: Path) -> None:
    run = factories.submitted(store, batch_sizes=(1, 8))
    while (claim := store.claim("cpu@alpha")) is not None:
        store.finish(claim, factories.ok(claim, evidence={"compiled": claim.spec.batch_size == 1}))
    [log] = written(store, run, tmp_path).values()
    for tag in log.Tags()["scalars"]:
        assert set(points(log, tag)) == {1}
    for tag in ("samples/device_ms", "samples/end_to_end_ms"):
        assert [event.step for event in log.Histograms(tag)] == [1]
    told = verdicts(log)[8]
    assert told.startswith("**INVALID**, 1 of 1 repeats measured\n\n- fallback: the graph was not compiled")


def test_a_row_that_was_not_measured_says_why(store: Store, tmp_path: Path) -> None:
    run = factories.submitted(store)
    claim = store.claim("cpu@alpha")
    assert claim is not None
    store.finish(claim, Ending(outcome=Outcome.UNSUPPORTED, reason="needs\nopenvino"))
    [log] = written(store, run, tmp_path).values()
    assert log.Tags()["scalars"] == log.Tags()["histograms"] == []
    assert verdicts(log) == {1: "**unsupported**, 0 of 1 repeats measured\n\n- needs openvino"}


def test_figures_that_are_missing_or_no_number_are_left_out(store: Store, tmp_path: Path) -> None:
    run = factories.submitted(store)
    claim = store.claim("cpu@alpha")
    assert claim is not None
    nobody_knows = factories.accuracy(top1_correct=None, top5_correct=None)
    store.finish(claim, factories.ok(claim, accuracy=nobody_knows, build_s=float("inf")))
    [log] = written(store, run, tmp_path).values()
    assert {"accuracy/top1_pct", "model/build_s", "latency_ms/p99"}.isdisjoint(log.Tags()["scalars"])
    assert "latency_ms/p50" in log.Tags()["scalars"]


def test_rows_of_several_environment_classes_have_logs_of_their_own(store: Store, tmp_path: Path) -> None:
    run = factories.submitted(store, repeats=2)
    first, second = store.claim("cpu@alpha"), store.claim("cpu@alpha")
    assert first is not None
    assert second is not None
    store.finish(first, factories.ok(first, samples=factories.samples(10.0)))
    store.finish(second, factories.ok(second, samples=factories.samples(50.0), environment=OTHER))
    logs = written(store, run, tmp_path)
    mine = factories.environment().key
    assert sorted(logs) == sorted([f"densenet121_baseline/cpu-{mine}", f"densenet121_baseline/cpu-{OTHER.key}"])
    for key, milliseconds in ((mine, 10.0), (OTHER.key, 50.0)):
        log = logs[f"densenet121_baseline/cpu-{key}"]
        assert points(log, "latency_ms/p50") == pytest.approx({1: milliseconds}, rel=0.01)
        assert log.Histograms("samples/device_ms")[0].histogram_value.max < milliseconds * 1.1


def test_a_write_replaces_the_whole_folder_and_one_that_fails_leaves_it(store: Store, tmp_path: Path) -> None:
    collated = collate(store, factories.submitted(store))
    folder = tmp_path / "results"
    path = export(collated, folder, "tensorboard")
    assert path.stat().st_mode & 0o777 == 0o755
    (path / "tfevents of an older write").touch()

    def breaks() -> Iterator[JobResult]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(replace(collated, measured=breaks), folder, "tensorboard")
    assert (path / "tfevents of an older write").exists()
    assert list(folder.iterdir()) == [path]
    export(collated, folder, "tensorboard")
    assert not (path / "tfevents of an older write").exists()
    assert list(path.rglob("*tfevents*"))
    assert list(folder.iterdir()) == [path]


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collated = collate(store, factories.submitted(store))
    path = export(collated, tmp_path / "results", "tensorboard")
    (path / "tfevents of an older write").touch()
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if target == path and not self.name.endswith(".old"):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tensorboard.write(collated, path)
    assert (path / "tfevents of an older write").exists()
    assert list(path.parent.iterdir()) == [path]


def test_only_writing_such_files_imports_what_they_need(store: Store, tmp_path: Path) -> None:
    code = (
        "import sys, results_store.__main__, results_store.exporters.tensorboard\n"
        "print([m for m in ('torch', 'tensorboard') if m in sys.modules])\n"
        "import results_store.exporters._events\n"
        "print([m for m in ('torch', 'tensorflow') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n[]\n"
