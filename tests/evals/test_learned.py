import socket
import sys
import urllib.request
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evals.learned import load_learned, no_network
from evals.optional import NotPresentError

PICTURE = np.full((32, 48, 3), 51, np.uint8)


class Installed(ModuleType):
    """Stands in for pyiqa: a metric of mean values, or one that fetches its weights first."""

    def __init__(self, fetches_at: str = "") -> None:
        super().__init__("pyiqa")
        self.fetches_at = fetches_at

    def create_metric(self, name: str, device: str) -> Any:
        self.fetch("creation")

        def metric(*pictures: Tensor) -> Tensor:
            self.fetch("call")
            assert all(p.dtype == torch.float32 and p.shape[:2] == (1, 3) for p in pictures)
            return torch.stack([p.mean() for p in pictures]).sum()

        return metric

    def fetch(self, moment: str) -> None:
        if self.fetches_at == moment:
            urllib.request.urlopen("http://192.0.2.1/weights.pth", timeout=5)


@pytest.mark.parametrize(("name", "pictures", "value"), [("lpips", 2, 0.4), ("musiq", 1, 0.2)])
def test_a_metric_that_is_there_gets_pictures_as_values_from_0_to_1(
    name: str, pictures: int, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", Installed())
    assert load_learned(name)(*[PICTURE] * pictures) == pytest.approx(value)


@pytest.mark.parametrize("moment", ["creation", "call"])
def test_a_metric_that_would_fetch_its_weights_is_not_present(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", Installed(moment))
    with pytest.raises(NotPresentError, match="the network is not used here"):
        load_learned("dists")


def test_a_missing_package_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(NotPresentError, match="pyiqa"):
        load_learned("clipiqa")


def test_sockets_and_names_work_again_afterwards() -> None:
    with no_network():
        with pytest.raises(OSError, match="not used here"):
            socket.create_connection(("127.0.0.1", 9), timeout=1)
        with pytest.raises(OSError, match="not used here"), socket.socket() as alone:
            alone.connect(("127.0.0.1", 9))
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
