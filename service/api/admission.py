"""The one way a job enters the queue over HTTP."""

from __future__ import annotations

from uuid import uuid4

from service.api.state import Services
from service.work import Admission, Submission


async def admit(services: Services, asked: Submission, job_id: str | None = None) -> Admission:
    """Queue a checked submission under a new id, or under the one the client has chosen.

    Raises IdempotencyKeyReuse, QueueFull, or ServerUnavailable.
    """
    admission = await services.queue.submit(job_id or str(uuid4()), asked)
    if not admission.replayed:
        services.metrics.jobs_submitted.labels(admission.job.priority).inc()
    return admission
