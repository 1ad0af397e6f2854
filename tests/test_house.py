"""The rules of the house: who may import whom, and what stays light."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import networkx
import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {
    "schemas": set(),
    "annotators": {"schemas"},
    "tokenizer": {"schemas"},
    "pipelines": {"schemas", "annotators", "tokenizer"},
    "trainer": {"schemas", "tokenizer"},
    "sluice": {"schemas", "annotators", "tokenizer", "pipelines", "trainer"},
}
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def imports(path: Path) -> list[tuple[str, bool]]:
    """Names of imported modules, and whether the import runs when the module is loaded."""
    tree = ast.parse(path.read_text())
    lazy = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node not in lazy) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                is_module = (ROOT / (deeper.replace(".", "/") + ".py")).exists()
                found.append((deeper if is_module else node.module, node not in lazy))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_import_only_what_they_may(path):
    room = path.relative_to(ROOT).parts[0]
    used = {name.split(".")[0] for name, _ in imports(path)} & set(ROOMS)
    assert used <= ROOMS[room] | {room}


def test_no_circles_between_files():
    graph = networkx.DiGraph()
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES}
    for name, path in names.items():
        graph.add_edges_from((name, target) for target, _ in imports(path) if target in names and target != name)
    circles = list(networkx.simple_cycles(graph))
    assert not circles


def test_kernels_know_no_beam():
    kernels = [path for path in FILES if path.name == "kernels.py"]
    assert len(kernels) >= 6
    for path in [*kernels, *(ROOT / "annotators").glob("*.py"), *(ROOT / "tokenizer").glob("*.py")]:
        assert not any(name.startswith("apache_beam") for name, _ in imports(path)), path
    probe = "import sys, {}; sys.exit('apache_beam' in sys.modules)"
    modules = ", ".join(f"pipelines.{path.parent.name}.kernels" for path in kernels)
    assert subprocess.run([sys.executable, "-P", "-c", probe.format(modules)]).returncode == 0


def test_kernels_do_no_input_or_output():
    doors = ("subprocess", "tempfile", "fsspec", "schemas.paths", "schemas.tables")
    for path in (path for path in FILES if path.name == "kernels.py"):
        assert not [name for name, _ in imports(path) for door in doors if f"{name}.".startswith(f"{door}.")], path
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        names = {call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", None) for call in calls}
        assert "open" not in names, path


def test_help_is_quick_and_light():
    command = [str(Path(sys.executable).with_name("sluice")), "--help"]
    times = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        times.append(time.perf_counter() - start)
        assert done.returncode == 0 and "Run a recipe" in done.stdout
    print(f"sluice --help: {min(times):.2f} s")  # the aim is 0.7 s; a busy machine must not fail a test
    probe = "import sys, sluice.cli; sys.exit(bool({'torch', 'apache_beam', 'polars', 'pyarrow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-P", "-c", probe]).returncode == 0
