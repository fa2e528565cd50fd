"""`edgerun doctor`: what this device has, what is wrong with it and what to do about it.

One file per family of checks, each a function from a `Patient` to lines; `checks.CHECKS` is the table of them.
`examine` runs them one after the other: what a check raises, or does not finish in time, becomes a red line.
"""

from edgerun.doctor.examine import Examination, examine
from edgerun.doctor.line import Line
from edgerun.doctor.needs import Needs, needs_of

__all__ = ["Examination", "Line", "Needs", "examine", "needs_of"]
