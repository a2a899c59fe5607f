"""Which recipes can be, which can run on this host, and what to install for the others."""

from __future__ import annotations

import ctypes.util
from pathlib import Path

import pytest

from farm import allocator, catalogue, plugins
from farm.errors import BadInput, Unsupported
from farm.precision import PRECISIONS
from farm.recipe import Recipe
from farm.settings import Settings
from farm.spec import job
from workers import supervisor


def test_every_choice_is_described() -> None:
    assert {text.partition("(")[0] for text in catalogue.described()} == set(catalogue.choices())


@pytest.mark.parametrize(
    "text", ["amp+openvino", "channels_last+openvino", "bf16+onnxruntime", "int8_static", "int8_dynamic+compile"]
)
def test_what_a_runtime_cannot_do_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(BadInput, match=r"does not run with .*: .+\. Nearest possible: "):
        catalogue.parse_recipe(text)


def test_a_precision_that_only_a_gpu_has_is_unsupported_elsewhere() -> None:
    recipe = catalogue.parse_recipe("tf32")
    catalogue.require_device(recipe, "cuda")
    with pytest.raises(Unsupported, match="tf32 runs on cuda, not on cpu"):
        catalogue.require_device(recipe, "cpu")
    assert catalogue.why_not("tf32", ["cpu"]) == "no: needs cuda"
    assert catalogue.why_not("tf32", ["cpu", "cuda"]) == ""


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "installed", lambda module: module != "nncf")
    catalogue.require_installed(catalogue.parse_recipe("openvino"))
    with pytest.raises(Unsupported, match="pip install nncf"):
        catalogue.require_installed(catalogue.parse_recipe("int8_static+openvino"))


def test_jemalloc_is_preloaded_into_the_measuring_process_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: f"lib{name}.so.2")
    environment = supervisor.child_environment(Settings(), job(recipe="jemalloc"), 1, Path("tmp"))
    assert environment["LD_PRELOAD"] == "libjemalloc.so.2"
    assert "LD_PRELOAD" not in supervisor.child_environment(Settings(), job(), 1, Path("tmp"))
    assert allocator.in_use() == "glibc"


def test_a_host_without_jemalloc_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    with pytest.raises(Unsupported, match="apt-get install libjemalloc2"):
        catalogue.require_installed(Recipe(choices=catalogue.parse_recipe("jemalloc").choices))


def test_every_precision_says_where_it_runs_and_what_it_may_cost() -> None:
    for name, precision in PRECISIONS.items():
        assert precision.dtypes, name
        assert 0 < precision.tolerance.top1_drop < 0.1
        assert precision.is_int8 == name.startswith("int8")
