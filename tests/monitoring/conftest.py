"""Metrics in a registry of their own, and what they say when they are scraped."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from core.bundle import Bundle
from monitoring import rules
from monitoring.metrics import HttpMetrics, InboxState, Metrics

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
def scrape(metrics: Metrics) -> Callable[[], Series]:
    """Every sample by name and sorted labels, read from the text that Prometheus would get."""

    def scrape() -> Series:
        text = metrics.exposition().decode()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    return scrape


@pytest.fixture
def unused_port() -> int:
    """A port of loopback on which nobody listened a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture(scope="session")
def selectors() -> Callable[[str], list[Any]]:
    """Every vector selector in a query; raises where the query is not PromQL."""

    def walk(node: Any) -> Iterator[Any]:  # noqa: ANN401 - one of many classes without a base
        if type(node).__name__ == "VectorSelector":
            yield node
        for name in ("lhs", "rhs", "expr", "param", "vector_selector"):
            child = getattr(node, name, None)
            if child is not None:
                yield from walk(child)
        for child in getattr(node, "args", None) or ():
            yield from walk(child)

    return lambda query: list(walk(promql_parser.parse(query)))


@pytest.fixture(scope="session")
def known_names(rgb_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> frozenset[str]:
    """Every metric name that either process exports, in full use."""
    metrics = Metrics()
    HttpMetrics(metrics.registry)
    folder = tmp_path_factory.mktemp("names")
    metrics.model_loaded(Bundle.load(rgb_bundle).manifest)
    metrics.watcher_mode("native")
    metrics.watcher_paused(None, ("user",))
    metrics.heartbeat(0.0)
    metrics.scanned(0.0)
    metrics.watch_inbox(lambda: InboxState(0, None))
    metrics.watch_disk(folder)
    names = {
        name
        for family in metrics.registry.collect()
        for name in (family.name, *_samples(family.name, family.type))
    }
    return frozenset(names | {"up"} | set(rules.recordings()))


def _samples(name: str, kind: str) -> tuple[str, ...]:
    suffixes = {"counter": ("total",), "histogram": ("bucket", "sum", "count"), "info": ("info",)}
    return tuple(f"{name}_{suffix}" for suffix in suffixes.get(kind, ()))
