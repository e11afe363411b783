"""Bytes to pixels to scores to prediction: pure functions and frozen types."""
