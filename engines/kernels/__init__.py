"""GPU kernels of our own, each beside the plain PyTorch that it must equal."""
