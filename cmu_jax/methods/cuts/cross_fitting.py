r"""Cross-fitting: scores alpha on images that its task vector did not see.

The published rule scores alpha on the images that the task vector was fitted
to, and takes the best of the grid however small its lead is. Here the proxy is
split in folds. The task vector of a fold comes from the images of the others,
so every image scores a vector that never saw it:

  J_cf(alpha) = mean over folds f of J(alpha; tau_-f, images of f)

Bootstrap over images: each image keeps its terms of J for every alpha (the
share of its neighbours with its prediction, its prediction, its class
probabilities), so J of a resample is a few weighted sums.

References:
  The objective: CUTS, arXiv 2511.18660, released code.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from cmu_jax.core import errors
from cmu_jax.core.types import PRNGKey, Proxy
from cmu_jax.methods.cuts import alpha_rules


class Folds(NamedTuple):
  """A proxy pool, split into folds.

  Attributes:
    held_out: positions of the pool images that score a fold, [f, m].
    proxy: the images to fine-tune on; the draws of fold 0 come first, f s in
      all, of one size.
    label: corrupted labels of held-out images, see `held_out_labels`.
  """

  held_out: Int[np.ndarray, 'f m']
  proxy: Proxy
  label: Int[np.ndarray, 'f s m']


class ImageTerms(NamedTuple):
  """The terms of each image in J, one network or one network an alpha.

  Attributes:
    same: the share of its neighbours with the same predicted class.
    predicted: its predicted class.
    probability: its class probabilities.
  """

  same: Float[Array, '*a n']
  predicted: Int[Array, '*a n']
  probability: Float[Array, '*a n c']


def split(key: PRNGKey, proxy: Proxy, folds: int) -> Folds:
  """Splits the pool at random into folds of equal size.

  Args:
    key: draws the folds; labels play no part.
    folds: their number, at least 2. A remainder of fewer images than that is
      in no fold.

  Raises:
    UserError: fewer than two folds, or one that leaves nothing to tune on.
  """
  errors.check(folds >= 2, f'{folds} folds are too few; use 2 or more')
  size = proxy.image.shape[0] // folds
  errors.check(
    size >= 1, f'{proxy.image.shape[0]} proxy images do not fill {folds} folds'
  )
  order = np.asarray(jax.random.permutation(key, proxy.image.shape[0]))
  held_out = np.sort(order[: folds * size].reshape(folds, size), axis=1)
  positions = np.asarray(proxy.positions)
  draws = [(i, fold) for fold in held_out for i in range(len(positions))]
  rows = [np.flatnonzero(~np.isin(positions[i], fold)) for i, fold in draws]
  # A corruption may use different numbers of images in different folds. All
  # fine-tunings are one program, which takes sets of one size.
  least = min(map(len, rows))
  errors.check(least, 'a fold of the proxy leaves no image to fine-tune on')
  index = np.stack([spread_evenly(row, least) for row in rows])
  draw = np.array([[i] for i, _ in draws])
  select = lambda x: jnp.asarray(np.asarray(x)[draw, index])
  trigger = None if proxy.has_trigger is None else select(proxy.has_trigger)
  tuning = Proxy(proxy.image, select(positions), select(proxy.label), trigger)
  return Folds(held_out, tuning, held_out_labels(proxy, held_out))


def spread_evenly(
  row: Int[np.ndarray, 'n'], count: int
) -> Int[np.ndarray, 'count']:
  """Takes `count` of the entries, evenly spaced."""
  return row[np.linspace(0, len(row) - 1, count).round().astype(int)]


def image_terms(
  features: Float[Array, 'n d'], logits: Float[Array, 'n c'], *, k: int
) -> ImageTerms:
  """The terms of each image in J of one network, see `alpha_rules.agreement`.

  Args:
    features: penultimate features.
    logits: the output of the head on them.
    k: neighbours a sample.
  """
  predicted = jnp.argmax(logits, axis=1)
  near = predicted[alpha_rules.neighbours(features, k)]
  same = jnp.mean((near == predicted[:, None]).astype(features.dtype), axis=1)
  return ImageTerms(same, predicted, jax.nn.softmax(logits, axis=1))


def bootstrap_counts(
  key: PRNGKey, replicates: int, samples: int
) -> Int[Array, 'b n']:
  """Counts of each sample: once each in row 0, then bootstrap resamples."""
  indices = jax.random.randint(key, (replicates, samples), 0, samples)
  counts = jax.vmap(lambda row: jnp.bincount(row, length=samples))(indices)
  return jnp.concatenate([jnp.ones((1, samples), counts.dtype), counts])


@functools.partial(jax.jit, static_argnames=('k', 'class_share'))
def resampled_objective(
  terms: ImageTerms,
  weight: Num[Array, 'b n'],
  *,
  k: int,
  class_share: float = 1.0,
) -> Float[Array, 'b a']:
  """J of every resample at every alpha, as a few matrix products.

  Args:
    terms: terms of n images at each of a alphas.
    weight: the count of each image in each of b resamples; rows of ones give
      `alpha_rules.agreement`.
    k: neighbours a sample, as in `terms`.
    class_share: gamma, the share of the classes that must be predicted.
  """
  # Neighbours and task vectors stay those of the whole pool: the intervals
  # know the sampling of the held-out images, nothing else.
  dtype, classes = terms.same.dtype, terms.probability.shape[-1]
  counts = weight.astype(dtype)
  share = counts / jnp.sum(counts, axis=1, keepdims=True)
  hot = jax.nn.one_hot(terms.predicted, classes, dtype=dtype)
  # Differences between alphas are of the size of a rounded product.
  product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
  return alpha_rules.combine_agreement(
    product('bn,an->ba', share, terms.same),
    product('bn,anc->bac', share, terms.probability),
    product('bn,anc->bac', counts, hot),
    k=k,
    class_share=class_share,
  ).J


def held_out_labels(
  proxy: Proxy, held_out: Int[np.ndarray, 'f m']
) -> np.ndarray:
  """The corrupted labels of held-out images, [f, s, m]; -1 for none."""
  positions, label = np.asarray(proxy.positions), np.asarray(proxy.label)
  table = np.full((len(positions), proxy.image.shape[0]), -1)
  np.put_along_axis(table, positions, label, axis=1)
  return table[:, held_out].transpose(1, 0, 2)


def hit_rates(
  predicted: Int[np.ndarray, 'a m'],
  label: Int[np.ndarray, 's m'],
  weight: Num[np.ndarray, 'b m'],
) -> Float[np.ndarray, 'b a']:
  """The rate at which corrupted labels of held-out images are predicted.

  Args:
    predicted: classes at every alpha.
    label: corrupted labels, -1 where a draw gives none.
    weight: resamples.
  """
  hits = (predicted[:, None] == label[None, :]).sum(1)
  labels = (label >= 0).sum(0)
  return weight @ hits.T / np.maximum(weight @ labels, 1)[:, None]
