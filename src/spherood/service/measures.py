"""What Prometheus reads: requests, latency, queue, verdicts, and how scores and p-values are distributed.

Scores have buckets of their own in every bundle, the twentieths of its held-out scores: a stream like those fills them
evenly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from spherood.bundle.bundle import Bundle
from spherood.bundle.verdict import Verdict
from spherood.errors import optional

LATENCY = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)  # seconds
P_VALUES = tuple(round(0.05 * n, 2) for n in range(1, 21))


class Measures:
    """``Measures(waiting)``; waiting: images in the queue of each bundle by name."""

    def __init__(self, waiting: Callable[[], dict[str, int]]) -> None:
        self._prometheus = optional("prometheus_client", "serve", "spherood serve")
        registry = self._prometheus.CollectorRegistry()
        self.registry, self._waiting = registry, waiting
        of = self._prometheus
        self.requests = of.Counter("spherood_requests", "Requests", ["path", "status"], registry=registry)
        self.latency = of.Histogram(
            "spherood_request_seconds", "From request to answer", ["path"], buckets=LATENCY, registry=registry
        )
        self.verdicts = of.Counter("spherood_verdicts", "Verdicts", ["bundle", "verdict"], registry=registry)
        self.p_values = of.Histogram(
            "spherood_p_value", "p-values; even on ID", ["bundle"], buckets=P_VALUES, registry=registry
        )
        self.unreadable = of.Counter(
            "spherood_unreadable_images", "Images that are none", ["bundle"], registry=registry
        )
        self.reloads = of.Counter("spherood_reloads", "Bundles taken from disk", ["bundle"], registry=registry)
        self.refused = of.Gauge("spherood_refused", "1: a newer bundle is not served", ["bundle"], registry=registry)
        self._scores: dict[str, tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], float]] = {}
        registry.register(self)

    def judged(self, name: str, bundle: Bundle, verdict: Verdict) -> None:
        """Count one."""
        kind = "ood" if verdict.is_ood else "review" if verdict.needs_review else "id"
        self.verdicts.labels(name, kind).inc()
        self.p_values.labels(name).observe(verdict.p_value)
        if name not in self._scores:
            edges = np.unique(np.quantile(bundle.held_out_score, np.linspace(0, 1, 21)))
            self._scores[name] = (edges, np.zeros(len(edges) + 1, dtype=np.int64), 0.0)
        edges, count, total = self._scores[name]
        count[np.searchsorted(edges, verdict.score)] += 1
        self._scores[name] = (edges, count, total + verdict.score)

    def swapped(self, name: str) -> None:
        """Another version is served: its scores have other buckets."""
        self.reloads.labels(name).inc()
        self._scores.pop(name, None)

    def collect(self) -> Iterable[Any]:
        """Asked by the registry: what is read off at that moment."""
        family = optional("prometheus_client.core", "serve", "spherood serve")
        queue = family.GaugeMetricFamily("spherood_queue", "Images that wait for a verdict", labels=["bundle"])
        for name, waiting in self._waiting().items():
            queue.add_metric([name], waiting)
        yield queue
        scores = family.HistogramMetricFamily("spherood_score", "Scores, higher = more OOD", labels=["bundle"])
        for name, (edges, count, total) in self._scores.items():
            upto = np.cumsum(count)
            buckets = [(f"{edge:.6g}", float(n)) for edge, n in zip(edges, upto[:-1], strict=True)]
            scores.add_metric([name], [*buckets, ("+Inf", float(upto[-1]))], total)
        yield scores

    def text(self) -> bytes:
        """The whole page for Prometheus."""
        found: bytes = self._prometheus.generate_latest(self.registry)
        return found
