"""Load on a real service, measured; figures and limits are in docs/scaling.md."""
