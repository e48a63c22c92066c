"""Metrics of the service in the text format of Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from graphrec.core.errors import missing_dependency
from graphrec.serving.http.live import LiveRecommender

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from starlette.applications import Starlette
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histogram of latencies, in seconds."""
OTHER = "other"
"""The route of every path that the service does not have, so that a stranger cannot make up labels."""


class ServiceMetrics:
    """Counts the requests of a service, and describes what it serves.

    Each service has metrics of its own; nothing is registered for the whole process.

    Args:
        served: the recommender behind the service.

    Raises:
        MissingDependencyError: prometheus-client is not installed.
    """

    def __init__(self, served: LiveRecommender) -> None:
        try:
            from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram
        except ImportError as cause:
            raise missing_dependency("prometheus-client", "serve") from cause
        self.served = served
        self.content_type = CONTENT_TYPE_LATEST
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "graphrec_requests", "Answered requests.", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "graphrec_request_seconds",
            "Seconds from a request's first byte to the last of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """What the service serves now; called by the registry."""
        from prometheus_client.core import GaugeMetricFamily

        recommender = self.served.recommender
        gauges = {
            "graphrec_users": ("Users of the recommender.", len(recommender.users)),
            "graphrec_items": ("Items of the recommender, with added ones.", recommender.n_items),
            "graphrec_quarantined": (
                "Additions of the journal that the recommender cannot take.",
                len(self.served.quarantined),
            ),
            "graphrec_takes_items": (
                "1 if items can be added, 0 without a journal.",
                int(self.served.journal is not None),
            ),
        }
        for name, (about, value) in gauges.items():
            yield GaugeMetricFamily(name, about, value=value)

    def text(self) -> bytes:
        """All metrics in the text format."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)


class CountRequests:
    """Middleware that counts and times the requests of an application."""

    def __init__(self, app: ASGIApp, metrics: ServiceMetrics, routes: frozenset[str]) -> None:
        self.app = app
        self.metrics = metrics
        self.routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, and counts it by its method, route and status."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in self.routes else OTHER
        method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else OTHER
        status = "500"
        start = time.perf_counter()

        async def count(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, count)
        finally:
            self.metrics.requests.labels(method, route, status).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - start)


def add_metrics(app: Starlette, served: LiveRecommender) -> ServiceMetrics:
    """Counts the requests of a service from the outermost middleware on.

    Call this after its routes and its other middleware are added.
    """
    metrics = ServiceMetrics(served)
    routes = frozenset(path for route in app.routes if (path := getattr(route, "path", None)))
    app.add_middleware(CountRequests, metrics=metrics, routes=routes)
    return metrics
