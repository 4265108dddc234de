"""Writes base/rules.yaml: rules and alerts as an object of the Prometheus operator: `make chart`.

They are written once, for every Prometheus; Kustomize cannot put a file into an object.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
RULES = FOLDER.parent / "prometheus" / "rules.yml"
OBJECT = FOLDER / "base" / "rules.yaml"
HEAD = """\
# Made by `make chart` from deploy/prometheus/rules.yml; changes belong there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata: { name: instantir }
spec:
"""


def rules_object() -> str:
    """The object around the rules, as text."""
    return HEAD + textwrap.indent(RULES.read_text(encoding="utf-8"), "  ")


if __name__ == "__main__":
    OBJECT.write_text(rules_object(), encoding="utf-8")
