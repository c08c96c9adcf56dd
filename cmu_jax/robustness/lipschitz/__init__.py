"""Upper bounds of the Lipschitz constant of a network, from its jaxpr."""

from cmu_jax.robustness.lipschitz.bounds import Bound, Stretch, bound

__all__ = ['Bound', 'Stretch', 'bound']
