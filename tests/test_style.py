"""The style rules that no linter knows: sizes, names, copies, exports, mirrors, stray paths."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("engines", "service", "training", "evals")
MAX_SOURCE_LINES = 400
MAX_TEST_LINES = 500
MAX_MEDIAN_LINES = 170
EQUAL_RUN_LINES = 10
BANNED_MODULE = re.compile(r"^(utils?|helpers?|common|misc|base_.*)$")


def _tracked() -> list[Path]:
    """Return every file git tracks or would track; all of a folder that is no checkout."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode == 0:
        paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    else:
        paths = [p for p in ROOT.rglob("*") if ".venv" not in p.parts and ".git" not in p.parts]
    return sorted({path for path in paths if path.is_file()})


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


FILES = _tracked()
PYTHON = [path for path in FILES if path.suffix == ".py"]
SOURCES = [path for path in PYTHON if path.relative_to(ROOT).parts[0] in PACKAGES]
TESTS = [path for path in PYTHON if path.relative_to(ROOT).parts[0] == "tests"]
CODE_SUFFIXES = {".py", ".js", ".css", ".html", ".lua", ".sh"}


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_no_file_is_longer_than_its_cap() -> None:
    code = [path for path in FILES if path.suffix in CODE_SUFFIXES]
    lengths = {_relative(path): len(_lines(path)) for path in code}
    too_long = {
        name: length
        for name, length in lengths.items()
        if length > (MAX_TEST_LINES if name.startswith("tests/") else MAX_SOURCE_LINES)
    }
    assert not too_long, str(too_long)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_median_file_of_a_package_stays_small(package: str) -> None:
    lengths = [len(_lines(p)) for p in SOURCES if p.relative_to(ROOT).parts[0] == package]
    assert lengths, f"no source file in {package}/"
    assert statistics.median(lengths) < MAX_MEDIAN_LINES


def test_no_module_is_named_after_nothing() -> None:
    parts = {(_relative(p), part.removesuffix(".py")) for p in PYTHON for part in p.parts}
    assert [name for name, part in sorted(parts) if BANNED_MODULE.match(part)] == []


def _import_lines(path: Path) -> set[int]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    return {line for node in imports for line in range(node.lineno, (node.end_lineno or 0) + 1)}


def _runs(path: Path) -> dict[tuple[str, ...], int]:
    """Map every run of ten code lines to the number of its first line.

    Imports, blanks, comments and lines of brackets alone do not count as lines of code.
    """
    imports = _import_lines(path) if path.suffix == ".py" else set[int]()
    kept: list[tuple[str, int]] = []
    for number, line in enumerate(_lines(path), start=1):
        text = line.strip()
        if number in imports or re.match(r"import\s|#|--|//", text) or not re.search(r"\w", text):
            continue
        kept.append((text, number))
    windows: dict[tuple[str, ...], int] = {}
    for start in range(len(kept) - EQUAL_RUN_LINES + 1):
        window = kept[start : start + EQUAL_RUN_LINES]
        windows.setdefault(tuple(text for text, _ in window), window[0][1])
    return windows


def test_no_two_files_share_a_run_of_equal_lines() -> None:
    seen: defaultdict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    for path in FILES:
        if path.suffix in {".py", ".js", ".lua", ".css"}:
            for run, line in _runs(path).items():
                seen[run].append((_relative(path), line))
    copies = {tuple(name for name, _ in at): at for at in seen.values() if len(at) > 1}
    assert not copies, str([*copies.values()])


def _statements_that_define(tree: ast.Module) -> list[int]:
    """Return the lines of an __init__ that are neither docstring, import nor __all__."""
    found: list[int] = []
    for node in tree.body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        exports = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        if not (docstring or exports or isinstance(node, ast.Import | ast.ImportFrom)):
            found.append(node.lineno)
    return found


def _package_inits() -> list[Path]:
    return [path for path in SOURCES if path.name == "__init__.py"]


def test_package_inits_only_re_export() -> None:
    defining = {
        _relative(path): lines
        for path in _package_inits()
        if (lines := _statements_that_define(ast.parse(path.read_text(encoding="utf-8"))))
    }
    assert defining == {}


def _imported_names(tree: ast.Module) -> list[str]:
    """Return the public names that a module's import statements bind, sorted."""
    bound = [
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module != "__future__"
        for alias in node.names
    ]
    return sorted(name for name in bound if not name.startswith("_"))


def _declared_names(tree: ast.Module) -> list[str]:
    """Return `__all__` as it is written."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


def test_all_is_sorted_and_equals_what_a_package_exports() -> None:
    trees = {_relative(p): ast.parse(p.read_text(encoding="utf-8")) for p in _package_inits()}
    pairs = {name: (_declared_names(tree), _imported_names(tree)) for name, tree in trees.items()}
    wrong = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    assert wrong == {}


def test_except_exception_stands_at_the_two_last_lines_of_defense_only() -> None:
    found: list[str] = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else "everything"
                if re.search(r"\b(Base)?Exception\b|everything", caught):
                    found.append(_relative(path))
    # Once each: the boundary of a job, and the last HTTP handler where it is a try block
    # (registered with `exception_handler(Exception)` it is no except clause at all).
    allowed = {"service/executor.py", "service/api/app.py"}
    assert len(found) == len(set(found)), found
    assert set(found) <= allowed, found


def test_no_comment_is_a_banner_or_a_task_without_a_number() -> None:
    banner = re.compile(r"^\s*#\s*([=\-*#~])\1{5,}")
    todo = re.compile(r"#.*\b(TO" + r"DO|FIX" + r"ME)\b(?!.*#\d+)")
    found = [
        f"{_relative(path)}:{number}"
        for path in PYTHON
        for number, line in enumerate(_lines(path), start=1)
        if banner.search(line) or todo.search(line)
    ]
    assert not found, str(found)


def _mirror(source: Path) -> str:
    folders = source.relative_to(ROOT).parts[:-1]
    return "/".join(["tests", *folders, f"test_{source.stem.strip('_')}.py"])


def test_every_module_has_a_mirror_test_file() -> None:
    have = {_relative(path) for path in TESTS}
    modules = [path for path in SOURCES if path.name != "__init__.py"]
    missing = [_relative(path) for path in modules if _mirror(path) not in have]
    assert not missing, str(missing)


def test_tests_await_conditions_and_never_sleep() -> None:
    call = re.compile(r"\bsleep" + r"\(")
    found = [
        f"{_relative(path)}:{number}"
        for path in TESTS
        for number, line in enumerate(_lines(path), start=1)
        if call.search(line)
    ]
    assert not found, str(found)


def test_no_tracked_file_names_a_path_of_one_machine() -> None:
    pattern = re.compile(r"(?<![\w.$}/*-])/(work|root|home|tmp|opt/pypi)/[\w.]")
    found: list[str] = []
    for path in FILES:
        if path == Path(__file__) or path.suffix == ".lock":
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        numbered = enumerate(text.splitlines(), start=1)
        found += [f"{_relative(path)}:{n}" for n, line in numbered if pattern.search(line)]
    assert not found, str(found)


def test_every_pickle_of_weights_is_read_as_weights_only() -> None:
    unsafe = [
        f"{_relative(path)}:{node.lineno}"
        for path in PYTHON
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "torch.load"
        and "weights_only=True" not in [ast.unparse(keyword) for keyword in node.keywords]
    ]
    assert unsafe == []
