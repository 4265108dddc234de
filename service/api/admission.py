"""From a checked submission to a job in the queue, the same for every route that takes pictures."""

from __future__ import annotations

from uuid import uuid4

from service.api.state import Services
from service.api.submission import Submission
from service.jobs import Job


async def admit(services: Services, submission: Submission) -> Job:
    """Put the submission into the queue. Raises QueueFull, or ServerUnavailable without Redis."""
    job = await services.queue.submit(
        str(uuid4()), submission.options, submission.source, submission.image
    )
    services.metrics.jobs_submitted.labels(job.priority).inc()
    return job
