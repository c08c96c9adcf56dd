"""Spectral norms of implicitly linear layers: measured, clipped, reported."""

from cmu_jax.robustness.spectral.editing import clip_weights
from cmu_jax.robustness.spectral.krylov import Norm, lanczos, norm
from cmu_jax.robustness.spectral.network import norms
from cmu_jax.robustness.spectral.operators import (
  Layer,
  bound,
  joint,
  layers,
  layers_of,
  parameters,
  replaced,
  subtree,
)
from cmu_jax.robustness.spectral.power import Spectrum, power_qr, rayleigh
from cmu_jax.robustness.spectral.table import report
from cmu_jax.robustness.spectral.transform import ClipState, clip_spectral_norm

__all__ = [
  'ClipState',
  'Layer',
  'Norm',
  'Spectrum',
  'bound',
  'clip_spectral_norm',
  'clip_weights',
  'joint',
  'lanczos',
  'layers',
  'layers_of',
  'norm',
  'norms',
  'parameters',
  'power_qr',
  'rayleigh',
  'replaced',
  'report',
  'subtree',
]
