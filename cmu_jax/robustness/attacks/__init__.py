"""Attacks: adversarial images of a network, as functions for jit and vmap.

  attack = attacks.pgd(8 / 255, steps=20, restarts=2)
  found = attacks.over(key, attack, model, inputs, variables, batch)

An attack is (key, logits, image, label) -> Adversarial, of images in [0, 1];
`logits_of` gives the logits of a network with its normalisation inside, and
`over` attacks a whole split. Factories return the same function for the same
settings, so that each compiles once. Arithmetic is float32.
"""

from cmu_jax.robustness.attacks import (
  auto_projected_gradient,
  fast_gradient,
  marching,
  minimal_distance,
  projected_gradient,
  whole_split,
)
from cmu_jax.robustness.attacks.kind import Adversarial, Attack, Logits

__all__ = [
  'Adversarial',
  'Attack',
  'Logits',
  'autopgd',
  'ffgsm',
  'fgsm',
  'logits_of',
  'march',
  'minimal',
  'over',
  'pgd',
]

fgsm = fast_gradient.fgsm
ffgsm = fast_gradient.ffgsm
pgd = projected_gradient.pgd
autopgd = auto_projected_gradient.autopgd
march = marching.march
minimal = minimal_distance.minimal
logits_of = whole_split.logits_of
over = whole_split.over
