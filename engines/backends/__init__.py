"""What runs the networks of a step: PyTorch as they are, or engines compiled from their graphs."""
