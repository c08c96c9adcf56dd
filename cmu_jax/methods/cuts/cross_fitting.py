r"""Judging an alpha by images that its task vector did not see: cross-fitting.

The published rule scores alpha on the images that the task vector was fitted
to, and takes the best of the grid however small its lead is. Here the proxy is
split in folds. The task vector of a fold comes from the images of the others,
so every image is judged under a vector that never saw it:

  J_cf(alpha) = mean over folds f of J(alpha; tau_-f, images of f)

Bootstrap over images: what an image adds to J is kept for every alpha (the
share of its neighbours with its prediction, its prediction, its class
probabilities), so J of a resample is a few weighted sums. Neighbours are not
searched anew, and the task vectors are not fitted anew: the intervals know the
sampling of the images that judge, nothing else.

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
  """A proxy pool, split to be judged by images that tau did not see.

  Attributes:
    held: the pool images that judge, one row a fold, [f, m].
    proxy: what is left to fine-tune on; the draws of fold 0 come first, f s
      in all, of one size.
  """

  held_out: Int[np.ndarray, 'f m']
  proxy: Proxy


class ImageTerms(NamedTuple):
  """What each image adds to J, one network or one network an alpha.

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

  A remainder of fewer than `folds` images judges nothing. Where a corruption
  keeps different numbers of images in different folds, as many are left out,
  evenly, as make their sizes equal.

  Args:
    key: draws the folds; labels play no part.
    proxy: the whole proxy.
    folds: how many, at least 2.

  Raises:
    UserError: fewer than two folds, or one that leaves nothing to tune on.
  """
  errors.check(folds >= 2, f'{folds} folds are too few; use 2 or more')
  size = proxy.image.shape[0] // folds
  errors.check(
    size >= 1, f'{proxy.image.shape[0]} proxy images do not fill {folds} folds'
  )
  order = np.asarray(jax.random.permutation(key, proxy.image.shape[0]))
  held = np.sort(order[: folds * size].reshape(folds, size), axis=1)
  kept = np.asarray(proxy.positions)
  draws = [(i, fold) for fold in held for i in range(kept.shape[0])]
  rows = [np.flatnonzero(~np.isin(kept[i], fold)) for i, fold in draws]
  least = min(map(len, rows))
  errors.check(least, 'a fold of the proxy leaves no image to fine-tune on')
  index = np.stack([spread_evenly(row, least) for row in rows])
  which = np.array([[i] for i, _ in draws])
  part = lambda x: jnp.asarray(np.asarray(x)[which, index])
  stamp = None if proxy.has_trigger is None else part(proxy.has_trigger)
  rest = Proxy(proxy.image, part(kept), part(proxy.label), stamp)
  return Folds(held, rest)


def spread_evenly(
  row: Int[np.ndarray, 'n'], count: int
) -> Int[np.ndarray, 'count']:
  """`count` of the entries, evenly spaced; all where there are no more."""
  return row[np.linspace(0, len(row) - 1, count).round().astype(int)]


def image_terms(
  features: Float[Array, 'n d'], logits: Float[Array, 'n c'], *, k: int
) -> ImageTerms:
  """What each image adds to J of one network; see `alpha_rules.agreement`.

  Args:
    features: penultimate features.
    logits: what the head makes of them.
    k: neighbours a sample.
  """
  predicted = jnp.argmax(logits, axis=1)
  near = predicted[alpha_rules.neighbours(features, k)]
  same = jnp.mean((near == predicted[:, None]).astype(features.dtype), axis=1)
  return ImageTerms(same, predicted, jax.nn.softmax(logits, axis=1))


def bootstrap_counts(
  key: PRNGKey, replicates: int, samples: int
) -> Int[Array, 'b n']:
  """How often each sample counts: row 0 once each, then bootstrap resamples."""
  drawn = jax.random.randint(key, (replicates, samples), 0, samples)
  counts = jax.vmap(lambda row: jnp.bincount(row, length=samples))(drawn)
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
    weight: how often each image counts in each of b resamples; rows of ones
      give `rules.agreement`.
    k: neighbours a sample, those that `terms` was made with.
    class_share: gamma, the share of the classes that must be predicted.
  """
  dtype, highest = terms.same.dtype, jax.lax.Precision.HIGHEST
  times = weight.astype(dtype)
  part = times / jnp.sum(times, axis=1, keepdims=True)
  hot = jax.nn.one_hot(
    terms.predicted, terms.probability.shape[-1], dtype=dtype
  )
  product = functools.partial(jnp.einsum, precision=highest)
  return alpha_rules.combine_agreement(
    product('bn,an->ba', part, terms.same),
    product('bn,anc->bac', part, terms.probability),
    product('bn,anc->bac', times, hot),
    k=k,
    class_share=class_share,
  ).J


def held_out_labels(
  proxy: Proxy, held_out: Int[np.ndarray, 'f m']
) -> np.ndarray:
  """The corrupted labels of the images that judge, [f, s, m]; -1 for none."""
  kept, label = np.asarray(proxy.positions), np.asarray(proxy.label)
  table = np.full((kept.shape[0], proxy.image.shape[0]), -1)
  np.put_along_axis(table, kept, label, axis=1)
  return table[:, held_out].transpose(1, 0, 2)


def hit_rates(
  predicted: Int[np.ndarray, 'a m'],
  label: Int[np.ndarray, 's m'],
  weight: Num[np.ndarray, 'b m'],
) -> Float[np.ndarray, 'b a']:
  """How often the corrupted label of an image that judges is predicted.

  Args:
    predicted: classes at every alpha.
    label: corrupted labels, -1 where a draw gives none.
    weight: resamples.
  """
  hits = (predicted[:, None] == label[None, :]).sum(1)
  known = (label >= 0).sum(0)
  return weight @ hits.T / np.maximum(weight @ known, 1)[:, None]
