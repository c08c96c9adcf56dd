"""Spectral norms of implicitly linear layers: measured, clipped, reported."""

from cmu_jax.spectral.operators import (
  Layer,
  bound,
  joint,
  layers,
  parameters,
  replaced,
  subtree,
)
from cmu_jax.spectral.power import Spectrum, power_qr, rayleigh

__all__ = [
  'Layer',
  'Spectrum',
  'bound',
  'joint',
  'layers',
  'parameters',
  'power_qr',
  'rayleigh',
  'replaced',
  'subtree',
]
