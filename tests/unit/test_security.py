"""What docs/security.md promises and the source itself shows."""

from __future__ import annotations

import ast
import hashlib
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from farm import scratch, spec, weights
from farm.errors import BadInput
from farm.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("farm", "results_store", "producer", "workers", "benchmarks", "examples")

#: What may be called although it can run code that it reads, and why.
ALLOWED = {
    ("farm/runtimes/torchscript.py", "torch.jit.load"): "from the artifact cache, its digest checked",
    (
        "farm/runtimes/compile.py",
        "torch._inductor.aoti_load_package",
    ): "from the artifact cache, its digest checked",
    ("benchmarks/latency_agreement.py", "torch.jit.load"): "what the farm itself has just built",
    (
        "benchmarks/latency_agreement.py",
        "torch._inductor.aoti_load_package",
    ): "what the farm itself has just built",
}

#: Called at all, these run what they are given.
NEVER = frozenset(
    {
        *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "tempfile.mktemp"),
        *(
            "torch.jit.load",
            "torch._inductor.aoti_load_package",
            "torch.hub.load",
            "torch.package.PackageImporter",
        ),
        *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "ssl._create_unverified_context"),
        *("np.lib.format.read_array", "onnx.load_from_string_unsafe"),
    }
)
#: Imported at all, these do.
NEVER_IMPORTED = frozenset(
    {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "telnetlib"}
)

#: An argument that must be there, with this value.
REQUIRED = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}

#: SQL that is written as text; whatever is not a literal there could be somebody's input.
SQL = frozenset({"text", "literal_column", "exec_driver_sql", "execute"})

#: SQL that is put together all the same, and why.
COMPOSED = {
    ("results_store/database.py", "connection.execute(f'PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}')"): (
        "a PRAGMA takes no bound value, and this one is a constant"
    ),
}


def sources() -> Iterator[tuple[str, ast.Module]]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with the name of what is called, as it is written."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((given.value for given in call.keywords if given.arg == name), None)


def dangers(tree: ast.AST) -> list[str]:
    """Calls that run what they read, or that might."""
    found = []
    for name, call in calls(tree):
        shell = keyword(call, "shell")
        if name in NEVER:
            found.append(name)
        if shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
            found.append(f"{name}(shell=…)")
        argument, wanted = REQUIRED.get(name, (None, None))
        given = keyword(call, argument) if argument else None
        if argument and not (isinstance(given, ast.Constant) and given.value is wanted):
            found.append(f"{name} without {argument}={wanted}")
        verify = keyword(call, "verify")
        if isinstance(verify, ast.Constant) and verify.value is False:
            found.append(f"{name}(verify=False)")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.partition(".")[0] in NEVER_IMPORTED]
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in NEVER_IMPORTED:
            found.append(str(node.module))
        if isinstance(node, ast.Attribute) and node.attr == "CERT_NONE":
            found.append("CERT_NONE")
    return found


def composed_sql(tree: ast.AST) -> list[str]:
    """SQL that is put together instead of bound."""
    return [
        ast.unparse(call)
        for name, call in calls(tree)
        if name.rpartition(".")[2] in SQL and call.args and is_composed(call.args[0])
    ]


def is_composed(node: ast.expr) -> bool:
    """Whether it is a text made of parts: formatted, added, or joined."""
    if isinstance(node, ast.IfExp):
        return is_composed(node.body) or is_composed(node.orelse)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mod):
        return any(
            isinstance(part, ast.Constant | ast.JoinedStr) or is_composed(part) for part in (node.left, node.right)
        )
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr in ("format", "join", "replace") and isinstance(node.func.value, ast.Constant)
    return isinstance(node, ast.JoinedStr)


def test_nothing_runs_what_it_reads() -> None:
    found = {(path, danger) for path, tree in sources() for danger in dangers(tree)}
    assert found == set(ALLOWED), found ^ set(ALLOWED)


def test_every_sql_is_bound() -> None:
    found = {(path, call) for path, tree in sources() for call in composed_sql(tree)}
    assert found == set(COMPOSED), found ^ set(COMPOSED)


@pytest.mark.parametrize(
    "code",
    [
        *("torch.load(f)", "torch.load(f, weights_only=False)", "torch.load(f, weights_only=x)", "np.load(f)"),
        *("np.load(f, allow_pickle=True)", "eval(x)", "exec(x)", "os.system(x)", "subprocess.run(x, shell=True)"),
        *(
            "run(x, shell=s)",
            "yaml.load(f)",
            "import pickle",
            "from pickle import loads",
            "def f():\n  import dill",
        ),
        *("requests.get(u, verify=False)", "context.verify_mode = ssl.CERT_NONE"),
    ],
)
def test_what_is_dangerous_would_be_found(code: str) -> None:
    assert dangers(ast.parse(code))


@pytest.mark.parametrize(
    "code",
    [
        *(
            'sa.text(f"x {y}")',
            'text("x " + y)',
            'text("x %s" % y)',
            'text("x {}".format(y))',
            'text(",".join(y))',
        ),
        *('c.execute(f"x {y}")', 'c.exec_driver_sql("a" if b else f"x {y}")', 'sa.literal_column(f"x {y}")'),
    ],
)
def test_sql_that_is_put_together_would_be_found(code: str) -> None:
    assert composed_sql(ast.parse(code))


def test_what_is_harmless_is_not_found() -> None:
    assert not dangers(ast.parse("torch.load(f, weights_only=True)\nnp.load(f, allow_pickle=False)\nmodel.eval()"))
    assert not composed_sql(ast.parse('sa.text("SELECT 1")\nc.execute(query)\nc.execute(sa.select(a + b))'))


def models(base: type[BaseModel] = BaseModel) -> Iterator[type[BaseModel]]:
    for model in base.__subclasses__():
        yield from models(model)
        if model.__module__.partition(".")[0] in FOLDERS:
            yield model


def test_every_value_that_is_read_refuses_unknown_fields() -> None:
    for path, tree in sources():
        if any(isinstance(node, ast.Name) and node.id in ("BaseModel", "Value") for node in ast.walk(tree)):
            importlib.import_module(".".join(Path(path).with_suffix("").parts))
    found = {model.__qualname__: model.model_config.get("extra") for model in models()}
    assert len(found) > 10
    # Settings are read from the environment, which is full of variables for others.
    assert all(extra == "forbid" for name, extra in found.items() if name != "Settings"), found


@pytest.mark.parametrize(
    "fields",
    [
        {"command": "id"},
        {"model": "../../etc/passwd"},
        {"model": "os.system"},
        {"recipe": "baseline+__import__"},
        {"dataset": "image_folder:../../etc"},
        {"dataset": "image_folder:/etc"},
        {"weights": "/etc/passwd"},
        {"weights": "sha256:../../x"},
        {"device": "cuda; id"},
        {"protocol": {"name": "x", "hook": "id"}},
        {"batch_size": 10**9},
    ],
    ids=str,
)
def test_a_spec_names_what_is_registered_and_nothing_else(fields: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        spec.validated(spec.JobSpec, {**spec.job().model_dump(mode="json"), **fields})


def test_no_door_shows_local_variables_when_it_fails() -> None:
    """Typer's pretty exceptions print them, passwords among them."""
    doors = 0
    for path, tree in sources():
        for name, call in calls(tree):
            if name == "typer.Typer":
                doors += 1
                shown = keyword(call, "pretty_exceptions_enable")
                assert isinstance(shown, ast.Constant) and shown.value is False, path
    assert doors >= 5


def test_no_password_is_in_a_file_of_the_project() -> None:
    """URLs with a password in them, but for those that say what one looks like."""
    example = re.compile(r"(?i)password|secret|[{$<]|\*\*\*")
    names = ("*.py", "*.md", "*.yaml", "*.yml", "*.sh", "*.toml", "*.acl", "*.conf")
    files = [
        path for folder in (*FOLDERS, "compose", "docs") for name in names for path in (ROOT / folder).rglob(name)
    ]
    found = {
        (str(path.relative_to(ROOT)), url)
        for path in files
        if "secrets" not in path.relative_to(ROOT).parts
        for url in re.findall(r"[a-z]+://[^\s:/@]*:([^\s@/]+)@", path.read_text())
        if not example.search(url)
    }
    assert found == set()


def test_the_embedded_broker_listens_on_loopback_only_and_asks_for_a_password() -> None:
    from producer import local

    lines = local._REDIS_CONFIG.splitlines()
    assert "bind 127.0.0.1" in lines
    assert "requirepass {password}" in lines


def test_a_measuring_process_is_told_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWER_BASIC_AUTH", "farm:hunter2")
    folder = tmp_path / "hunter2"
    folder.mkdir()
    monkeypatch.setenv("FARM_SECRETS_DIR", str(folder))
    known = Settings(
        data_dir=tmp_path, broker_url="redis://:hunter2@h/0", database_url="postgresql://farm:hunter2@h/farm"
    )
    told = scratch.environment(known, tmp_path)
    assert told["FARM_DATA_DIR"] == str(tmp_path)
    assert not [name for name, value in told.items() if "hunter2" in value]


class Bomb:
    """Unpickled anywhere but in `weights_only`, it writes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.mark,)


def test_a_file_of_weights_that_would_run_something_is_refused(tmp_path: Path) -> None:
    import torch

    mark, file = tmp_path / "mark", tmp_path / "weights.pth"
    torch.save({"weight": torch.zeros(1), "bomb": Bomb(mark)}, file)
    kept = file.rename(tmp_path / f"{hashlib.sha256(file.read_bytes()).hexdigest()}.pth")
    with pytest.raises(BadInput, match="cannot be read as weights"):
        weights.read(kept)
    assert not mark.exists()
    torch.load(kept, weights_only=False)
    assert mark.exists(), "it would not have run anything, so nothing is shown here"


def test_what_the_docs_name_as_a_check_is_there() -> None:
    named = set(re.findall(r"`(test_\w+\.py)`", (ROOT / "docs/security.md").read_text()))
    assert len(named) > 8
    assert named <= {path.name for path in (ROOT / "tests").rglob("test_*.py")}
