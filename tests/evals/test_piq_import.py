import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from evals.piq_import import load_piq

PACKAGES = {"piq", "torchvision"}


def modules() -> dict[str, ModuleType]:
    """What is loaded of the two packages."""
    return {name: m for name, m in sys.modules.items() if name.split(".")[0] in PACKAGES}


@pytest.fixture
def _nothing_loaded() -> Iterator[None]:
    """Neither package is loaded during the test; afterwards everything is as it was."""
    before = modules()
    for name in before:
        del sys.modules[name]
    yield
    for name in modules():
        del sys.modules[name]
    sys.modules.update(before)


@pytest.mark.usefixtures("_nothing_loaded")
def test_piq_is_imported_with_the_metrics_in_use() -> None:
    piq = load_piq()
    assert all(callable(getattr(piq, name)) for name in ("fsim", "gmsd", "haarpsi", "vif_p"))


@pytest.mark.usefixtures("_nothing_loaded")
def test_no_stand_in_is_left_behind() -> None:
    load_piq()
    assert [name for name in modules() if name.startswith("torchvision")] == []


@pytest.mark.usefixtures("_nothing_loaded")
def test_no_stand_in_is_left_behind_by_an_import_that_fails() -> None:
    sys.modules["piq.fsim"] = None  # pyright: ignore[reportArgumentType]  (bars its import)
    with pytest.raises(ImportError, match=r"piq\.fsim"):
        load_piq()
    assert [name for name in modules() if name.startswith("torchvision")] == []


@pytest.mark.usefixtures("_nothing_loaded")
def test_modules_that_were_loaded_before_are_put_back() -> None:
    own = {name: ModuleType(name) for name in ("torchvision", "torchvision.models")}
    sys.modules.update(own)
    load_piq()
    left = {name: m for name, m in modules().items() if name.startswith("torchvision")}
    assert left == own


@pytest.mark.usefixtures("_nothing_loaded")
def test_a_second_call_returns_the_same_module() -> None:
    assert load_piq() is load_piq()


@pytest.mark.usefixtures("_nothing_loaded")
def test_a_module_that_is_loaded_already_is_returned_as_it_is() -> None:
    loaded = sys.modules["piq"] = ModuleType("piq")
    assert load_piq() is loaded


@pytest.mark.usefixtures("_nothing_loaded")
def test_learned_metrics_say_what_they_would_need() -> None:
    with pytest.raises(NotImplementedError, match="need torchvision"):
        load_piq().ContentLoss()
