"""How much of the original a candidate keeps: the field's metric for each task, and the gate it is held against."""

from edgerun.convert.judge.gate import Gate
from edgerun.convert.judge.judging import Judge

__all__ = ["Gate", "Judge"]
