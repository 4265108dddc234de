"""A client of the service: `from service.client import Client, AsyncClient`."""

from service.client.asynchronous import AsyncClient, Event, Restored
from service.client.failures import ApiError, JobFailedError
from service.client.synchronous import Client

__all__ = ["ApiError", "AsyncClient", "Client", "Event", "JobFailedError", "Restored"]
