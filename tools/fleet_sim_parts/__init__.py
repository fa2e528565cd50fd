"""Many devices in one process: the code that a device has towards its broker, without a pipeline behind it."""
