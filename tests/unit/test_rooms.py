"""The rooms of the project stay apart: who may import whom, and what nobody may."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Room → the rooms that it may import, besides itself.
ALLOWED = {
    "farm": set(),
    "results_store": {"farm"},
    "producer": {"farm", "results_store"},
    "workers": {"farm", "results_store"},
}


def sources(*rooms: str) -> Iterator[tuple[Path, ast.Module]]:
    for room in rooms or ALLOWED:
        for path in sorted((ROOT / room).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text())


def imports(tree: ast.Module) -> Iterator[str]:
    """Everything imported anywhere in the file, as `package.module`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which room is meant"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_the_rooms_beneath_it(room: str) -> None:
    others = set(ALLOWED) - ALLOWED[room] - {room}
    for path, tree in sources(room):
        wrong = {name for name in imports(tree) if name.partition(".")[0] in others}
        assert not wrong, f"{path} imports {wrong}"


def test_celery_is_imported_in_one_file() -> None:
    found = {
        str(path)
        for path, tree in sources(*ALLOWED, "benchmarks")
        if any(name.partition(".")[0] in ("celery", "kombu", "billiard") for name in imports(tree))
    }
    assert found == {"farm/queue.py"}


def test_no_other_module_of_farm_imports_the_queue() -> None:
    assert not [str(path) for path, tree in sources("farm") if "farm.queue" in set(imports(tree))]


def test_no_module_imports_itself_through_others() -> None:
    modules = {module_name(path): path for path, _ in sources()}
    uses = {
        module_name(path): {name for name in at_top(tree) if name in modules} - {module_name(path)}
        for path, tree in sources()
    }
    circle = find_circle(uses)
    assert circle is None, " → ".join(circle or ())


def test_the_environment_is_read_in_settings_only() -> None:
    for path, tree in sources():
        if str(path) != "farm/settings.py":
            lines = environment_reads(tree)
            assert not lines, f"{path} reads the environment in lines {lines}"


@pytest.mark.parametrize(
    "module",
    [
        "producer.__main__",
        "workers.__main__",
        "workers.supervisor",
        "workers.reconciler",
        "workers.companion",
        "workers.child",
    ],
)
def test_importing_a_door_does_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('torch', 'torchvision', 'onnxruntime') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def at_top(tree: ast.Module) -> set[str]:
    """What importing the module imports: not what functions import when they run, nor what only types need."""
    kept = [n for n in tree.body if not isinstance(n, ast.FunctionDef | ast.ClassDef | ast.If)]
    return set(imports(ast.Module(body=kept, type_ignores=[])))


def find_circle(uses: dict[str, set[str]]) -> list[str] | None:
    done: set[str] = set()

    def walk(module: str, way: list[str]) -> list[str] | None:
        if module in way:
            return [*way[way.index(module) :], module]
        if module in done:
            return None
        found = next((f for used in sorted(uses[module]) if (f := walk(used, [*way, module]))), None)
        done.add(module)
        return found

    return next((found for module in sorted(uses) if (found := walk(module, []))), None)


def environment_reads(tree: ast.Module) -> list[int]:
    """Lines that read a variable; setting one is none, nor is handing all of them on (`{**os.environ, …}`)."""
    allowed: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            allowed |= {id(value) for key, value in zip(node.keys, node.values, strict=True) if key is None}
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            allowed.add(id(node.value))
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and ast.unparse(node) in ("os.environ", "os.getenv", "os.environb")
        and id(node) not in allowed
    ]


def test_the_checks_of_this_file_can_fail() -> None:
    assert environment_reads(ast.parse("import os\nx = os.environ['A']\ny = os.getenv('B')")) == [2, 3]
    assert environment_reads(ast.parse("os.environ['A'] = '1'\nz = {**os.environ, 'A': '1'}")) == []
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert set(imports(ast.parse("def f():\n    from farm import queue"))) == {"farm", "farm.queue"}
