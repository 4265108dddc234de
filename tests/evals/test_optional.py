import sys
from pathlib import Path

import pytest

from evals.optional import NotPresentError, data_file, need


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of its own on the path: it imports what does not exist, and has a data file."""
    folder = tmp_path / "broken_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("import a_module_that_is_nowhere\n", encoding="utf-8")
    (folder / "weights.bin").write_bytes(b"\1")
    monkeypatch.syspath_prepend(tmp_path)
    return folder.name


def test_a_module_that_is_installed_is_imported() -> None:
    assert need("json", "pip install json") is sys.modules["json"]


def test_a_missing_module_is_reported_with_what_installs_it() -> None:
    with pytest.raises(NotPresentError, match="^not installed: pip install nowhere$"):
        need("a_module_that_is_nowhere", "pip install nowhere")
    with pytest.raises(NotPresentError, match="^not installed: pip install nowhere$"):
        data_file("a_module_that_is_nowhere", "x", "pip install nowhere")


def test_a_module_whose_own_needs_are_missing_is_told_apart(package: str) -> None:
    with pytest.raises(NotPresentError, match=r"does not load .*a_module_that_is_nowhere.*: more"):
        need(package, "more")


def test_a_data_file_is_found_without_importing_its_package(package: str) -> None:
    assert data_file(package, "weights.bin", "").read_bytes() == b"\1"
    assert package not in sys.modules


def test_a_package_without_the_file_is_told_apart(package: str) -> None:
    with pytest.raises(NotPresentError, match=f"{package} has no other.bin: newer"):
        data_file(package, "other.bin", "newer")
