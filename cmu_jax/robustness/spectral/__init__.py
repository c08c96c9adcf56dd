"""Spectral norms of implicitly linear layers: measured, clipped, reported."""

from cmu_jax.robustness.spectral.editing import ClipData, clip_weights
from cmu_jax.robustness.spectral.layer_kernels import ClipSettings
from cmu_jax.robustness.spectral.network_layers import (
  measure_layers,
  report_norms,
)
from cmu_jax.robustness.spectral.operators import (
  Layer,
  bind_layer,
  find_layers,
  find_model_layers,
  joint_layers,
  layer_parameters,
  replace_subtree,
  subtree,
)
from cmu_jax.robustness.spectral.singular_values import (
  LeadingNorm,
  Spectrum,
  estimate_norm,
  lanczos,
  power_qr,
  rayleigh,
)
from cmu_jax.robustness.spectral.transform import ClipState, clip_spectral_norm

__all__ = [
  'ClipData',
  'ClipSettings',
  'ClipState',
  'Layer',
  'LeadingNorm',
  'Spectrum',
  'bind_layer',
  'clip_spectral_norm',
  'clip_weights',
  'estimate_norm',
  'find_layers',
  'find_model_layers',
  'joint_layers',
  'lanczos',
  'layer_parameters',
  'measure_layers',
  'power_qr',
  'rayleigh',
  'replace_subtree',
  'report_norms',
  'subtree',
]
