"""Datasets, corruptions, proxy sets and the input step of networks."""

from typing import Any

from cmu_jax.core.types import Dataset


def load(source: str, **options: Any) -> Dataset:
  """Loads a dataset, see `cmu_jax.data.sources.load`."""
  # Imported late: the readers import scikit-learn, Pillow and protobuf, which
  # most modules of this package do not need.
  from cmu_jax.data import sources

  return sources.load(source, **options)
