"""The likeness of the reference networks to the audited network.

RMIA and LiRA read from the references how a network answers a point that it was
trained on, or not. References of another recipe, of fewer points or of cleaner
labels answer otherwise: these attacks then miss leaks, or score members below
non-members. Attacks on the network alone do not depend on references.
"""

import math
from typing import Any

import numpy as np

from cmu_jax.commands.audit.npz_points import AuditPoints
from cmu_jax.core.types import Info

# Accuracies of alike networks differ by less, apart from chance.
_MAX_DIFFERENCE = 0.05
_STANDARD_ERRORS = 2.0
# References on fewer points than this share of the members know much less.
_MIN_SIZE = 0.5


def compare(points: AuditPoints) -> Info | None:
  """Compares accuracies and sizes; None without references.

  Args:
    points: of an audit.

  Returns:
    'seen' and 'unseen': accuracy of the network and of the references on points
    of their training and on others (None without such points), with the
    difference that chance allows; 'size': training points of a reference, and
    members; 'alike': whether all of these agree.
  """
  if points.inside is None or points.logits is None:
    return None
  assert points.member is not None
  audited = np.ones(points.member.shape, bool)
  audited = audited if points.audited is None else points.audited
  hits = points.logits.argmax(axis=-1) == points.labels
  references = _reference_hits(points)
  facts: Info = {
    'seen': _pair(hits[points.member], references[points.inside]),
    'unseen': _pair(hits[~points.member & audited], references[~points.inside]),
    'size': {
      'references': int(points.inside.sum(axis=1).mean()),
      'members': int(points.member.sum()),
    },
  }
  facts['alike'] = not _differences(facts)
  return facts


def _reference_hits(points: AuditPoints) -> np.ndarray:
  """Right predictions of the references, [K, n]."""
  if points.reference_signals is not None:
    return points.reference_signals['hit']
  assert points.reference_logits is not None
  return points.reference_logits.argmax(axis=-1) == points.labels


def _pair(network: np.ndarray, references: np.ndarray) -> Info | None:
  """The accuracies of both, and the largest difference of alike networks."""
  # Offline, no reference was trained on an audited point.
  if not network.size or not references.size:
    return None
  accuracy, reference = float(np.mean(network)), float(np.mean(references))
  # By the references: a network without errors would have no standard error.
  error = math.sqrt(reference * (1 - reference) / network.size)
  return {
    'network': accuracy,
    'references': reference,
    'allowed': _MAX_DIFFERENCE + _STANDARD_ERRORS * error,
  }


def _differences(facts: Info) -> list[str]:
  """The quantities in which references and network differ."""
  texts = []
  for name, text in (('seen', 'their training points'), ('unseen', 'others')):
    pair = facts[name]
    if pair is None:
      continue
    if abs(pair['network'] - pair['references']) > pair['allowed']:
      texts.append(
        f'accuracy on {text} {pair["references"]:.1%} against '
        f'{pair["network"]:.1%}'
      )
  # The members given may be a part of the training set.
  size = facts['size']
  if size['references'] < _MIN_SIZE * size['members']:
    texts.append(
      f'{size["references"]:,} training points against at least '
      f'{size["members"]:,}'
    )
  return texts


def describe(results: dict[str, Any]) -> list[str]:
  """States if the references are like the network, and the attack to believe.

  Args:
    results: of an audit; those of earlier versions have no comparison.
  """
  facts = results.get('references')
  if facts is None:
    return []
  if facts['alike']:
    pair = facts['unseen'] or facts['seen']
    return [
      'The references are like the network '
      f'(accuracy {pair["references"]:.1%} against {pair["network"]:.1%}): '
      'believe RMIA and LiRA first.'
    ]
  return [
    'Warning: the references are unlike the network: '
    f'{" and ".join(_differences(facts))}. RMIA and LiRA then miss leaks or '
    'score members below non-members. Believe the attacks without references, '
    'confidence and entropy, or train references with the recipe, the labels '
    'and as many points as the network.'
  ]
