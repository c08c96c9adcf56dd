"""Where the search for adversarial images is to begin."""

import math

import jax
import numpy as np

from cmu_jax.core import errors, rng
from cmu_jax.core.types import Batch, InputStep, Model, PRNGKey, Variables
from cmu_jax.data import splits
from cmu_jax.robustness import attacks


def initial_radius(
  key: PRNGKey,
  model: Model,
  inputs: InputStep,
  variables: Variables,
  batch: Batch,
  *,
  share: float = 0.95,
  count: int = 100,
  tiny: float = 1e-3,
  size: int = 256,
) -> float:
  """The first radius within which most samples have an adversarial image.

  Args:
    key: of which samples are tried.
    model: the network.
    inputs: raw pixels to network input.
    variables: its weights.
    batch: samples of D_F.
    share: of the samples tried, that must have one.
    count: samples to try.
    tiny: the radius that the search begins with.
    size: images in memory at once.

  Returns:
    `tiny` times a power of two.

  Raises:
    UserError: fewer samples than `share` have an adversarial image at all, or
      bad input, see `attacks.over`.

  References:
    AMUN, arXiv 2503.00917, section 4.1: 95 % of about 100 samples.
  """
  total = batch.label.shape[0]
  order = jax.random.permutation(rng.named(key, 'tried'), max(total, 1))
  few = splits.take(batch, order[:count]) if total else batch
  found = attacks.over(
    rng.named(key, 'attack'),
    attacks.minimal(tiny),
    model,
    inputs,
    variables,
    few,
    size,
    title='radius of the attack',
  )
  each = np.where(found.success, np.asarray(found.radius), np.inf)
  wanted = float(np.quantile(each, share, method='inverted_cdf'))
  errors.check(
    np.isfinite(wanted),
    f'only {np.isfinite(each).mean():.0%} of {each.size} images have an '
    f'adversarial image, not {share:.0%}; set the radius by hand',
  )
  return tiny * 2.0 ** round(math.log2(wanted / tiny))
