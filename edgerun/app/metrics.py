"""Prometheus and health checks over HTTP."""

from __future__ import annotations

from edgerun.config.watching import MetricsConfig
from edgerun.telemetry.http import MetricsServer, Page, health_page, metrics_page
from edgerun.telemetry.prometheus import CONTENT_TYPE, Exporter, Scraped


def make_pages(scraped: Scraped) -> tuple[Exporter, dict[str, Page]]:
    """What makes the exposition; and `/metrics`, `/healthz` and `/readyz`, by path.

    Raises `MissingError` without the extra `metrics`.
    """
    exporter = Exporter(scraped)

    return exporter, {
        "/metrics": metrics_page(exporter.exposition, CONTENT_TYPE),
        "/healthz": health_page(lambda: None),
        "/readyz": health_page(scraped.states.why_not_ready),
    }


def serve_metrics(config: MetricsConfig, pages: dict[str, Page]) -> MetricsServer:
    """A server of nothing but `pages`, until closed. Raises `ConfigError`, `DeviceError`."""
    token = None if config.token is None else config.token.reveal()
    return MetricsServer(pages, host=config.listen, port=config.port, token=token)
