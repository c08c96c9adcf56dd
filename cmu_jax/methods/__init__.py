"""Unlearning and repair methods."""
