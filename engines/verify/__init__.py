"""Replay recorded runs of the official implementation: `python -m engines.verify FOLDER`."""
