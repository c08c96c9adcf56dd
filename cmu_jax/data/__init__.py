"""Data: sources, splits, corruption, the proxy and the input step."""
