"""The ONNX route: a float .onnx file in; int8 (QDQ), fp16, float or ORT-format bytes out."""
