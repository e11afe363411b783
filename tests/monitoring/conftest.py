"""Metrics in a registry of their own, and what they say when they are scraped."""

from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from monitoring.metrics import Metrics

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
