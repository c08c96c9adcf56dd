"""What a network still knows of pictures: accuracy, and a membership attack."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from cmu_jax import audits
from cmu_jax.core import rng
from cmu_jax.training import metrics

# Of the bootstrap: it belongs to the measurement, not to the request.
_SEED = 0


def measured(
  seen: Mapping[
    str, tuple[Float[np.ndarray, 'n k'], Int[np.ndarray, 'n']] | None
  ],
  classes: int,
) -> dict[str, Any]:
  """Accuracy of each set, by class on the test set, and who can tell them.

  Args:
    seen: logits and labels of 'forget', 'retain' and 'test'; None where
      there are no such pictures.
    classes: k.

  Returns:
    'accuracy' and 'confidence' (mean probability of the label) by set,
    'class_accuracy' of the test set, and 'membership': how well the confidence
    in the label tells forgotten pictures from unseen ones (None without test
    pictures), with its interval.
  """
  return {
    'accuracy': {name: _accuracy(found) for name, found in seen.items()},
    'confidence': {name: _confidence(found) for name, found in seen.items()},
    'class_accuracy': _by_class(seen['test'], classes),
    'membership': _membership(seen['forget'], seen['test']),
  }


def _accuracy(found: Any) -> float | None:
  if found is None:
    return None
  logits, label = found
  return float(np.mean(logits.argmax(-1) == label))


def _confidence(found: Any) -> float | None:
  if found is None:
    return None
  return float(np.mean(audits.softmax(*map(jnp.asarray, found))))


def _by_class(found: Any, classes: int) -> list[float | None] | None:
  if found is None:
    return None
  logits, label = found
  counts = metrics.confusion(label, logits.argmax(-1), classes)
  return metrics.class_accuracy(counts)


def _membership(forget: Any, test: Any) -> dict[str, Any] | None:
  """The attack by confidence on forgotten against unseen pictures."""
  if test is None:
    return None
  scores = [
    np.asarray(audits.logit_confidence(*map(jnp.asarray, found)))
    for found in (forget, test)
  ]
  found = audits.evaluate(rng.named(_SEED, 'membership'), *scores)
  return {
    'auc': found.auroc.value,
    'low': found.auroc.low,
    'high': found.auroc.high,
    'verdict': found.verdict,
    'says': found.says,
  }
