"""Engines of NVIDIA's TensorRT, in both of its flavours, from the ONNX files of the graph table."""
