"""Adversarial attacks on a network, as functions for jit and vmap.

  attack = attacks.pgd(8 / 255, steps=20, restarts=2)
  result = attacks.attack_split(key, attack, network, variables, batch)

An attack is (key, logits, image, label) -> AttackResult, of images in [0, 1];
`logits_of` gives the logits of a network with its normalisation inside, and
`attack_split` attacks a whole split. Factories return the same function for the
same settings, so that each compiles once. Arithmetic is float32.

All factories share some arguments, which they do not describe again:

radius    eps, of pixels in [0, 1]
norm      'linf' or 'l2'
loss      'cross_entropy', or 'margin' and 'dlr', which do not saturate
steps     of each run
restarts  number of runs; an image keeps its first success

A factory raises a UserError for a number that is not above 0, and for an
unknown norm or loss.
"""

from cmu_jax.robustness.attacks.auto_projected_gradient import autopgd
from cmu_jax.robustness.attacks.marching import march
from cmu_jax.robustness.attacks.minimal_distance import minimal_pgd
from cmu_jax.robustness.attacks.projected_gradient import ffgsm, fgsm, pgd
from cmu_jax.robustness.attacks.protocol import Attack, AttackResult, Logits
from cmu_jax.robustness.attacks.split_attack import attack_split, logits_of

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
