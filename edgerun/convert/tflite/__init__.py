"""TensorFlow Lite models: read into plain float, observed on calibration data, written as int8, mixed or fp16."""
