"""The nearest way out for operators that TFLite has no counterpart for."""

from __future__ import annotations

_QUANTISED = "the model is quantised already; start from its float original, or use --format onnx"
_BOXES = "export the model without its post-processing: edgerun's decoders do it"
_LOOP = "export with a fixed number of steps, unrolled"
_RECURRENT = "use --format onnx, or a convolutional model"

WAYS_OUT: dict[str, str] = {
    "QuantizeLinear": _QUANTISED,
    "DequantizeLinear": _QUANTISED,
    "DynamicQuantizeLinear": _QUANTISED,
    "QLinearConv": _QUANTISED,
    "QLinearMatMul": _QUANTISED,
    "ConvInteger": _QUANTISED,
    "MatMulInteger": _QUANTISED,
    "NonMaxSuppression": _BOXES,
    "TopK": _BOXES,
    "NonZero": _BOXES,
    "RoiAlign": "use a one-stage detector, or --format onnx",
    "GridSample": "warp before the model, or use --format onnx",
    "Loop": _LOOP,
    "Scan": _LOOP,
    "If": "export in evaluation mode (model.eval()), so that the branch is decided",
    "LSTM": _RECURRENT,
    "GRU": _RECURRENT,
    "RNN": _RECURRENT,
    "Erf": "use torch.nn.GELU as it is, or its tanh approximation: both are known as a pattern",
    "Einsum": "write it with matmul and transpose",
    "ScatterND": "write it with concatenation instead of assignment to a slice",
    "BatchNormalization": "export in evaluation mode (model.eval()), so that its statistics are constant",
    "LRN": "use BatchNormalization",
    "Selu": "use ELU or ReLU",
    "Celu": "use ELU or ReLU",
    "ThresholdedRelu": "use ReLU",
    "Trilu": "make the mask a constant",
    "CumSum": "use --format onnx",
    "Attention": "export with attn_implementation eager, so that it is spelled out",
}
