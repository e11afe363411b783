"""Counts events, reads states: metrics, health, logs, and what Prometheus and Grafana need."""
