"""Studies of what the paper claims, measured on a model: `python -m evals.studies`."""
