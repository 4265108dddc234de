"""All studies, one after the other: `python -m evals.studies --model nano --out docs/studies`."""

from __future__ import annotations

from evals.studies import (
    adaptive_sampling,
    aggregator_reference,
    content_complexity,
    dcp_robustness,
    previewer_timestep,
    reference_variance,
    semantic_editing,
)
from evals.studies.command import run

STUDIES = (
    dcp_robustness.STUDY,
    reference_variance.STUDY,
    aggregator_reference.STUDY,
    previewer_timestep.STUDY,
    content_complexity.STUDY,
    adaptive_sampling.STUDY,
    semantic_editing.STUDY,
)

if __name__ == "__main__":
    run(STUDIES)
