"""The import of piq without torchvision.

piq imports ``torchvision.models`` for its learned metrics, of which none is used here. The project
does without torchvision: the wheel that package indexes serve by default is built for CUDA, does
not load beside a CPU build of torch and then breaks the import of transformers as well. So while
piq is imported, and only then, empty modules stand in for the names it asks for.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from torch import nn


def load_piq() -> ModuleType:
    """Return piq; raises ImportError where it is not installed."""
    loaded = sys.modules.get("piq")
    if loaded is not None:
        return loaded
    stand_ins = _stand_ins()
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        return importlib.import_module("piq")
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _stand_ins() -> dict[str, ModuleType]:
    """Make modules with the names piq reads at import: base classes and two constructors."""
    inception = ModuleType("torchvision.models.inception")
    for name in ("InceptionA", "InceptionC", "InceptionE"):
        setattr(inception, name, type(name, (nn.Module,), {}))
    models = ModuleType("torchvision.models")
    for name in ("vgg16", "vgg19"):
        setattr(models, name, _no_learned_metrics)
    package = ModuleType("torchvision")
    models.__dict__["inception"] = inception
    package.__dict__["models"] = models
    return {module.__name__: module for module in (package, models, inception)}


def _no_learned_metrics(*_: object, **__: object) -> nn.Module:
    raise NotImplementedError("piq's learned metrics need torchvision, which is not used here")
