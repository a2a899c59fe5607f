"""The detailed CSV and the folder of traces: what they say of each cell, and what they leave behind."""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farm.errors import BadInput
from farm.measurement import Operator
from results_store.collate import Row, collate, export
from results_store.exporters import profiles
from results_store.exporters.detailed import COLUMNS
from results_store.store import Store
from tests import factories

HEADER = (
    "model_variant,batch_size,device,optimization_technique,operator,provider,calls,profiled_calls,host_total_ms,"
    "host_self_ms,device_total_ms,device_self_ms,self_share_pct,source,verdict,environment_key,run_id,cell_key"
)
GPU = factories.profile(
    source="onnxruntime",
    operators=(
        Operator(name="sm90\nconv", calls=3, device_total_s=0.003, device_self_s=0.003),
        Operator(name="=Conv", provider="CUDA", calls=3, host_total_s=0.001, device_total_s=0.004),
        Operator(name="a\0b\ud800", calls=3, device_total_s=0.001, device_self_s=0.001),
    ),
    trace=None,
)


def measured(store: Store, *profiles: Any, **matrix: Any) -> str:
    """The run of a matrix whose jobs have these profiles, in the order of measuring."""
    run = factories.submitted(store, **matrix)
    for profile in profiles:
        claim = store.claim("cpu@alpha")
        assert claim is not None
        assert store.finish(claim, factories.ok(claim, profile=profile))
    return run


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_cpus_operators_are_written_in_milliseconds_with_their_share(store: Store, tmp_path: Path) -> None:
    run = measured(store, factories.profile(), optimizations=("amp",), batch_sizes=(8,))
    path = export(collate(store, run), tmp_path, "detailed")
    [row] = collate(store, run).rows
    where = f"torch.profiler,VALID,{row.environment_key},{run},{row.cell.key}"
    assert path == tmp_path / "benchmark_results_detailed.csv"
    assert path.read_text() == (
        f"{HEADER}\n"
        f"densenet121_amp,8,cpu,amp,aten::conv2d,,6,3,6,6,,,75,{where}\n"
        f"densenet121_amp,8,cpu,amp,call of the model,,3,3,8,2,,,25,{where}\n"
    )
    assert ",".join(COLUMNS) == HEADER


def test_on_a_gpu_shares_are_of_the_devices_time_and_odd_names_stay_on_their_line(
    store: Store, tmp_path: Path
) -> None:
    path = export(collate(store, measured(store, GPU)), tmp_path, "detailed")
    kernel, node, odd = table(path)
    assert [row["self_share_pct"] for row in (kernel, node, odd)] == ["75", "0", "25"]
    assert (kernel["operator"], kernel["host_self_ms"], kernel["device_self_ms"]) == ("sm90 conv", "", "3")
    assert (node["operator"], node["provider"], node["device_total_ms"]) == ("'=Conv", "CUDA", "4")
    assert odd["operator"] == "a\N{REPLACEMENT CHARACTER}b?"
    assert path.read_text().count("\n") == 4


def test_a_run_without_profiles_has_a_header_and_an_empty_folder(store: Store, tmp_path: Path) -> None:
    collated = collate(store, measured(store, None, batch_sizes=(1, 8)))
    assert export(collated, tmp_path, "detailed").read_text() == f"{HEADER}\n"
    assert list(export(collated, tmp_path, "profiles").iterdir()) == []


def test_each_profiled_cell_has_a_trace_under_its_name(store: Store, tmp_path: Path) -> None:
    given = {"optimizations": ("baseline", "pruning(0.3)+channels_last"), "batch_sizes": (8,), "repeats": 2}
    run = measured(store, factories.profile(), factories.profile(), None, None, **given)
    folder = export(collate(store, run), tmp_path, "profiles")
    assert sorted(path.name for path in folder.iterdir()) == [
        "densenet121_baseline_b8_cpu.json.gz",
        "densenet121_pruning-0.3+channels_last_b8_cpu.json.gz",
    ]
    for path in folder.iterdir():
        [event] = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
        assert (event["name"], event["dur"]) == ("aten::conv2d", 6000)
        assert path.stat().st_mode & 0o777 == 0o644


def test_names_are_safe_and_never_the_same(store: Store) -> None:
    [row] = collate(store, factories.submitted(store)).rows

    def named(model: str, taken: set[str]) -> str:
        return profiles._name(replace(row, cell=row.cell.model_copy(update={"model": model})), taken)

    taken: set[str] = set()
    names = [named(model, taken) for model in ("a/b", "a\\b", "A:b", "../..", ".hidden", "x" * 400, "ä\n")]
    assert len({name.lower() for name in names}) == len(names)
    assert names[0] == "a-b_baseline_b1_cpu.json.gz"
    assert names[1].startswith("a-b_baseline_b1_cpu_")
    for name in names:
        assert name == Path(name).name
        assert not name.startswith((".", "-"))
        assert len(name) < 200
        assert name.isascii()
        assert name.endswith(".json.gz")


def test_traces_of_cells_that_are_gone_go_too_and_a_failed_write_leaves_the_old_ones(
    store: Store, tmp_path: Path
) -> None:
    collated = collate(store, measured(store, factories.profile()))
    folder = export(collated, tmp_path / "results", "profiles")
    [trace] = folder.iterdir()
    (folder / "of a cell that is gone.json.gz").touch()

    def breaks(row: Row) -> Any:
        raise KeyboardInterrupt

    for name in ("profiles", "detailed"):
        with pytest.raises(KeyboardInterrupt):
            export(replace(collated, trace=breaks, profile=breaks), tmp_path / "results", name)
    assert len(list(folder.iterdir())) == 2
    assert list(folder.parent.iterdir()) == [folder]
    export(collated, tmp_path / "results", "profiles")
    assert list(folder.iterdir()) == [trace]


def test_profiles_are_read_one_cell_at_a_time_and_only_when_they_are_written(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def note(kind: str) -> None:
        method = getattr(Store, kind)

        def noted(self: Store, job_id: str) -> Any:
            read.append(kind)
            return method(self, job_id)

        monkeypatch.setattr(Store, kind, noted)

    note("profile")
    note("trace")
    run = measured(store, *[factories.profile()] * 3, batch_sizes=(1, 2, 3))
    collated = collate(store, run)
    export(collated, tmp_path, "csv")
    assert read == []
    export(collated, tmp_path, "detailed")
    assert read == ["profile"] * 3
    export(collated, tmp_path, "profiles")
    assert read == ["profile"] * 3 + ["trace"] * 3


@pytest.mark.parametrize("name", ["profiles/mine.txt", "profiles/deep/mine.json", "profiles"])
def test_a_folder_that_is_not_the_farms_is_left_alone(name: str, store: Store, tmp_path: Path) -> None:
    mine = tmp_path / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("precious")
    run = measured(store, factories.profile())
    with pytest.raises(BadInput, match="is not the farm's, and would be lost"):
        export(collate(store, run), tmp_path, "profiles")
    assert mine.read_text() == "precious"
