"""Importing a module does nothing, and the API process never loads an engine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("engines", "service", "training", "evals")
HEAVY = ("torch", "onnxruntime", "tensorrt", "diffusers", "transformers", "numpy", "engines")

# Runs in a child process: first every import statement of others' packages, so that what those do
# is over; then our own modules under an audit hook that notes what their top level does.
WATCHED_IMPORT = r"""
import ast, importlib, json, os, sys, threading
from pathlib import Path

root, modules = Path(sys.argv[1]), sys.argv[2:]
ours = {name.partition(".")[0] for name in modules}
sys.path.insert(0, str(root))

def file_of(module):
    base = root.joinpath(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")

for module in modules:
    for node in ast.parse(file_of(module).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        if not any(name.partition(".")[0] in ours for name in names):
            exec(ast.unparse(node), {})

deeds = []
watched = {
    "socket.__new__", "socket.connect", "socket.bind", "subprocess.Popen", "os.system", "os.mkdir",
    "os.remove", "os.rename", "os.putenv", "os.unsetenv", "os.listdir", "os.scandir",
    "tempfile.mkstemp", "tempfile.mkdtemp", "shutil.rmtree", "signal.pthread_kill",
}

def caller():
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(str(root)) and ".venv" not in name:
            return f"{Path(name).relative_to(root)}:{frame.f_lineno}"
        if name.startswith("<frozen importlib"):
            return None
        frame = frame.f_back
    return None

def hook(event, arguments):
    if event == "open" or event in watched:
        where = caller()
        if where:
            deeds.append(f"{where} {event} {arguments[0] if arguments else ''}")

real_get = type(os.environ).__getitem__
def noted_get(self, key):
    frame = sys._getframe(1)
    while frame.f_code.co_filename in mapping_code:  # environ.get() and os.getenv() lie between
        frame = frame.f_back
    name = frame.f_code.co_filename
    if name.startswith(str(root)) and ".venv" not in name:  # pydantic reads its own, legitimately
        deeds.append(f"{Path(name).relative_to(root)}:{frame.f_lineno} reads the variable {key}")
    return real_get(self, key)

mapping_code = {os.environ.get.__code__.co_filename, os.getenv.__code__.co_filename}

threads = threading.active_count()
type(os.environ).__getitem__ = noted_get
sys.addaudithook(hook)
for module in modules:
    importlib.import_module(module)
done = list(deeds)
if threading.active_count() > threads:
    done.append(f"threads: {threading.enumerate()}")
print(json.dumps(done))
"""


def _modules() -> list[str]:
    files = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    relative = [path.relative_to(ROOT).with_suffix("") for path in files]
    return [".".join(path.parts).removesuffix(".__init__") for path in relative]


def _python(code: str, *arguments: str, cwd: Path) -> str:
    """Run code in a fresh interpreter with an empty environment; return the last line printed."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, *arguments],
        cwd=cwd,
        env={},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout.splitlines()[-1]


@pytest.fixture
def read_only(tmp_path: Path) -> Path:
    """A folder that nobody but root may write to."""
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o555)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_importing_every_module_does_nothing(read_only: Path) -> None:
    modules = [name for name in _modules() if not name.endswith("__main__")]
    assert len(modules) > 20
    deeds = json.loads(_python(WATCHED_IMPORT, str(ROOT), *modules, cwd=read_only))
    assert deeds == []
    assert list(read_only.iterdir()) == []


@pytest.mark.parametrize("module", ["service.api.app", "service.cli", "service.worker"])
def test_only_the_executors_child_loads_an_engine(module: str, read_only: Path) -> None:
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); __import__(sys.argv[2]); "
        "print(json.dumps(sorted(sys.modules)))"
    )
    loaded = json.loads(_python(code, str(ROOT), module, cwd=read_only))
    assert module in loaded
    assert [name for name in HEAVY if name in loaded] == []
