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
  marching,
  minimal_distance,
  projected_gradient,
  split_attack,
)
from cmu_jax.robustness.attacks.protocol import Attack, AttackResult, Logits

__all__ = [
  'Attack',
  'AttackResult',
  'Logits',
  'attack_split',
  'autopgd',
  'ffgsm',
  'fgsm',
  'logits_of',
  'march',
  'minimal_pgd',
  'pgd',
]

fgsm = projected_gradient.fgsm
ffgsm = projected_gradient.ffgsm
pgd = projected_gradient.pgd
autopgd = auto_projected_gradient.autopgd
march = marching.march
minimal_pgd = minimal_distance.minimal_pgd
logits_of = split_attack.logits_of
attack_split = split_attack.attack_split
