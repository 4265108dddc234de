"""Training of the restoration networks: degradations, data, captions and the training loop."""
