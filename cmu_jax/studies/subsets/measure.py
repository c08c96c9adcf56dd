"""What a network is measured by, from its logits on D and D_T alone.

Evaluation mode, no augmentation. UA is the accuracy on D_F itself, as in AMUN;
others call its complement UA.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from cmu_jax import audits
from cmu_jax.core import jit, rng
from cmu_jax.core.types import Info, Network, Variables
from cmu_jax.studies.subsets.world import Place
from cmu_jax.training import metrics


class References(NamedTuple):
  """What RMIA compares with.

  Attributes:
    probability: of each point's label under each reference, [k, n], D before
      D_T.
    inside: which reference was trained on which point.
  """

  probability: Float[np.ndarray, 'k n']
  inside: Bool[np.ndarray, 'k n']


class Groups(NamedTuple):
  """Where D_F, D_R and D_T are in the pool."""

  forget: Bool[np.ndarray, 'n']
  retain: Bool[np.ndarray, 'n']
  test: Bool[np.ndarray, 'n']


def groups(
  place: Place,
  forget: Int[np.ndarray, 'm'],
  gone: Int[np.ndarray, '_'] | None = None,
) -> Groups:
  """Where D_F, D_R and D_T are in the pool; what is gone is in none."""
  n = place.pool.label.shape[0]
  test = np.arange(n) >= place.dataset.train.label.shape[0]
  known = np.isin(np.arange(n), forget)
  left = ~known & ~test
  left[[] if gone is None else gone] = False
  return Groups(known, left, test)


def look(place: Place, variables: Variables) -> Float[np.ndarray, 'n k']:
  """Logits of the whole pool."""
  size = place.config.evaluate.batch_size
  return metrics.logits(
    Network(place.model, place.inputs), variables, place.pool, size
  )


@functools.cache
def _compiled(name: str) -> Callable:
  return jit.compile_cheaply(audits.SIGNALS[name])


def signal(
  place: Place, name: str, logits: Float[np.ndarray, 'n k']
) -> Float[np.ndarray, 'n']:
  """A signal of `audits.SIGNALS` of every point of the pool."""
  found = _compiled(name)(jnp.asarray(logits), place.pool.label)
  return np.asarray(found, np.float64)


def _areas(score: Float[np.ndarray, 'n'], where: Groups) -> list[float]:
  """FT, FR and RT AUC: D_F and D_T, D_R and D_F, D_R and D_T."""
  forget, retain, test = (score[part] for part in where)
  pairs = (forget, test), (retain, forget), (retain, test)
  return [audits.auc(first, second) for first, second in pairs]


_AREAS = ('ft_auc', 'fr_auc', 'rt_auc')
_RELATIVE = (
  *(f'{name}_rmia' for name in _AREAS),
  'ft_auc_rmia_ratio',
  'ft_tpr_1_percent_rmia',
  'rmia_tied',
)


def _relative(
  place: Place,
  logits: Float[np.ndarray, 'n k'],
  where: Groups,
  references: References | None,
) -> Info:
  """RMIA with the test points as population; None without references."""
  if references is None:
    return dict.fromkeys(_RELATIVE)
  options = place.config.rmia
  found = audits.rmia(
    signal(place, options.signal, logits),
    references.probability,
    references.inside,
    where.test,
    gamma=options.gamma,
  )
  sides = found.ratio[where.forget], found.ratio[where.test]
  return dict(
    zip(
      _RELATIVE,
      (
        *_areas(found.score, where),
        audits.auc(*sides),
        audits.tpr_at(*sides, 0.01),
        found.tied,
      ),
      strict=True,
    )
  )


def mis(place: Place, chance: Float[np.ndarray, 'n'], where: Groups) -> float:
  """The confidence attack on the probability of the label.

  Args:
    place: of the run.
    chance: probability of the label of every point of the pool.
    where: what was forgotten, members, and points that stand for unseen ones.
  """
  forget, retain, test = (chance[part] for part in where)
  most = place.config.evaluate.mis_points or None
  return audits.confidence_attack(
    rng.fold_in(0, 'mis'), retain, test, forget, most
  )


def values(
  place: Place,
  logits: Float[np.ndarray, 'n k'],
  forget: Int[np.ndarray, 'm'],
  references: References | None,
  gone: Int[np.ndarray, '_'] | None = None,
) -> Info:
  """The numbers of a row.

  Args:
    place: of the run.
    logits: of the network on the pool.
    forget: positions of D_F.
    references: for RMIA; None leaves its numbers None.
    gone: what earlier requests named: no longer retained.

  Returns:
    forget_accuracy (UA), retain_accuracy (RA), test_accuracy (TA); ft_auc,
    fr_auc, rt_auc of the logit-scaled confidence, ft_auc_low and _high (95 %
    of the bootstrap), ft_tpr_1_percent; mis; and the like of RMIA.

  References:
    AMUN, arXiv 2503.00917, section 5.
  """
  where = groups(place, forget, gone)
  hit = logits.argmax(axis=1) == np.asarray(place.pool.label)
  confidence = signal(place, 'logit_confidence', logits)
  found = audits.evaluate(
    rng.fold_in(0, 'bootstrap'),
    confidence[where.forget],
    confidence[where.test],
    replicates=place.config.evaluate.replicates,
  )
  low = found.tpr_1_percent
  return {
    'forget_accuracy': float(hit[where.forget].mean()),
    'retain_accuracy': float(hit[where.retain].mean()),
    'test_accuracy': float(hit[where.test].mean()),
    **dict(zip(_AREAS, _areas(confidence, where), strict=True)),
    'ft_auc_low': found.auroc.low,
    'ft_auc_high': found.auroc.high,
    'ft_tpr_1_percent': None if low is None else low.value,
    'mis': mis(place, signal(place, 'softmax', logits), where),
    **_relative(place, logits, where, references),
  }
