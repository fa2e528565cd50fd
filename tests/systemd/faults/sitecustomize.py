"""Puts the plug-ins of `edgerun_faults` in the place of the real ones, in every Python of the service under test."""

from edgerun import registry

registry.BUILTIN["engine"]["tflite"] = "edgerun_faults:Engine"
registry.BUILTIN["source"]["synthetic"] = "edgerun_faults:Source"
