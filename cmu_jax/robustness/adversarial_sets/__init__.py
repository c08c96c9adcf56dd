"""Sets of adversarial images of samples that are to be unlearned.

`pairs` finds an adversarial image of each sample, with the class that the
network gives it; `element` makes D_A of them, or one of the sets that the
paper's ablation puts in its place. `initial_radius` says where to begin.

References:
  AMUN, arXiv 2503.00917: algorithm 1 and section 4.2 (ablation).
"""

from cmu_jax.robustness.adversarial_sets import build, elements, radius
from cmu_jax.robustness.adversarial_sets.build import Pairs

__all__ = ['ELEMENTS', 'Pairs', 'element', 'facts', 'initial_radius', 'pairs']

pairs = build.pairs
facts = build.facts
initial_radius = radius.initial_radius
element = elements.element
ELEMENTS = elements.ELEMENTS
