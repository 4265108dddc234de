"""The HTTP side: submissions, jobs, live events, operations and the page. Never imports torch."""
