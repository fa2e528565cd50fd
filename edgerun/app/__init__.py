"""Config → objects → a running pipeline: the only room that joins the others."""

from edgerun.app.opening import check_models
from edgerun.app.running import App

__all__ = ["App", "check_models"]
