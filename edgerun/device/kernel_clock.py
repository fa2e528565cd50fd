"""How the kernel's clock is kept: adjtimex(2), asked through the C library."""

from __future__ import annotations

import ctypes
import os

import msgspec

from edgerun.errors import DeviceError

# Linux, include/uapi/linux/timex.h
_STA_UNSYNC = 0x0040
_TIME_ERROR = 5


class ClockState(msgspec.Struct, frozen=True):
    """`synchronised`: a time service disciplines the clock; `max_error_ms` is the kernel's own bound of its error."""

    synchronised: bool
    max_error_ms: float


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("micros", ctypes.c_long))


class _Timex(ctypes.Structure):
    """struct timex as adjtimex(2) gives it; `rest` is what is not looked at, and room to grow."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
        ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long),
        ("time", _Time),
        ("rest", ctypes.c_long * 32),
    )


def read() -> ClockState:
    """The kernel's view of its clock; it changes nothing (`modes` is 0). Raises `DeviceError`."""
    state = _Timex()
    answer = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(state))
    if answer < 0:
        raise DeviceError("adjtimex failed", got=os.strerror(ctypes.get_errno()))
    synchronised = answer != _TIME_ERROR and not state.status & _STA_UNSYNC
    return ClockState(synchronised, state.maxerror / 1000)
