"""Measurement of restoration quality: metrics and the evaluation of a model on photographs."""
