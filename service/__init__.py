"""The serving side: HTTP API, job queue, workers. Only `service.executor` reaches `engines`."""
