"""Trained models in the formats of others, and back: ONNX, Keras."""
