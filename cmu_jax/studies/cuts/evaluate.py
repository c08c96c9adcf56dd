"""Measurements on the test split: rows, confusions, curves, feature path.

Nothing here flows back into a method: test labels choose only the row
`cuts_best_alpha`, which says so.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from sklearn import decomposition

from cmu_jax import audits
from cmu_jax.core import rng
from cmu_jax.core.types import Info, Network, Variables
from cmu_jax.data import splits
from cmu_jax.methods.cuts import task_simplex
from cmu_jax.studies.cuts import scene, stages
from cmu_jax.training import metrics, train

TESTED = ('test_accuracy', 'target_class_accuracy', 'attack_success_rate')


class Score(NamedTuple):
  """Score of a network on the test split."""

  counts: np.ndarray  # confusion matrix on clean images, [k, k]
  values: Info  # accuracies and rates by name, None where inapplicable


def make_scorer(config: ConfigDict, world: scene.World) -> Callable[..., Score]:
  """(variables, members=None) -> score; compiled once for all networks.

  Where there are members the score is that of the mean of their probabilities.

  Poison: the attack success rate is measured on a triggered *test* set, over
  the images that are not of the target class.
  """
  test, classes = world.dataset.test, world.dataset.num_classes
  label, target = np.asarray(test.label), config.corruption.target
  size = config.evaluate.batch_size
  poisoned = config.task == 'poison'
  # All networks are scored on the same stamped images.
  stamped = test._replace(has_trigger=jnp.ones(test.label.shape, bool))

  def score(variables: Variables, members: Variables | None = None) -> Score:
    single = members is None
    model = world.model if single else task_simplex.ensemble_model(world.model)
    network = variables if single else members

    def predict(batch):
      return metrics.predict(Network(model, world.inputs), network, batch, size)

    counts = metrics.confusion(label, predict(test), classes)
    values: Info = {
      'test_accuracy': metrics.accuracy(counts),
      'target_class_accuracy': None,
      'attack_success_rate': None,
      'triggered_accuracy': None,
    }
    # Without a trigger these rates have no meaning and stay None.
    if poisoned:
      hit = predict(stamped)
      values['target_class_accuracy'] = metrics.class_accuracy(counts)[target]
      values['attack_success_rate'] = metrics.attack_success(label, hit, target)
      values['triggered_accuracy'] = float(np.mean(hit == label))
    return Score(counts, values)

  return score


def evaluate_alphas(
  config: ConfigDict,
  score: Callable[..., Score],
  corrupted: Variables,
  info: Info,
) -> tuple[Info, Info]:
  """Test scores on a coarse grid of alphas, alpha_hat included.

  Returns:
    The columns of the curve, and the diagnostic point: label noise, the best
    test accuracy on the grid (it uses test labels); poison, the lowest proxy
    attack success (it does not).
  """
  fine = np.asarray(info['curve']['alpha'])
  coarse = fine[:: max(1, len(fine) // (config.evaluate.points - 1))]
  # The curve must contain alpha_hat exactly, because the report marks it.
  grid = np.unique(np.concatenate([[0.0, info['alpha'], fine[-1]], coarse]))
  rates = info['curve'].get('proxy_attack_success_rate')
  # The attack on the proxy needs no test label.
  lowest = None if rates is None else float(fine[int(np.argmin(rates))])
  if lowest is not None:
    grid = np.unique(np.append(grid, lowest))
  scores = [
    score(stages.edit_weights(corrupted, info['tau'], float(a))) for a in grid
  ]
  columns: Info = {}
  for name in TESTED:
    values = [s.values[name] for s in scores]
    columns[name] = None if values[0] is None else values
  # The grid contains `lowest`, so the search finds it exactly.
  best = (
    int(np.argmax(columns['test_accuracy']))
    if lowest is None
    else int(np.searchsorted(grid, lowest))
  )
  return (
    {'alpha': grid.tolist(), **columns},
    {'alpha': float(grid[best]), 'score': scores[best]},
  )


def trace_features(
  config: ConfigDict, world: scene.World, corrupted: Variables, info: Info
) -> dict[str, np.ndarray]:
  """Computes the path of test images in feature space over alpha (2-D PCA).

  The projection is fitted to the features at alpha = 0 and at alpha_hat (the
  end of the grid if the model is left as it is), so that both are seen in the
  plane in which they differ most.

  Returns:
    'feature_path' [p, m, 2], 'feature_path_alpha' [p] and the true labels
    'feature_path_label' [m]; the arrays of the figure. Nothing if the config
    asks for no images.
  """
  count = min(config.evaluate.path_images, world.dataset.test.label.shape[0])
  if not count:
    return {}
  image = world.inputs.eval(world.dataset.test.image[:count], None)
  # An abstention has alpha = 0, which would give a path without length.
  top = info['alpha'] or float(info['curve']['alpha'][-1])
  alphas = np.round(np.linspace(0, 1.5 * top, 7), 4)
  features = jax.jit(world.model.features)
  points = [
    np.asarray(
      features(stages.edit_weights(corrupted, info['tau'], float(a)), image),
      np.float64,
    )
    for a in alphas
  ]
  plane = decomposition.PCA(2, svd_solver='full')
  # Point 4 of 7 points up to 1.5 `top` is `top` itself.
  plane.fit(np.concatenate([points[0], points[4]]))
  return {
    'feature_path': np.stack([plane.transform(p) for p in points]).astype(
      np.float32
    ),
    'feature_path_alpha': alphas,
    'feature_path_label': np.asarray(world.dataset.test.label[:count]),
  }


COLUMNS = ('label_recovery_rate', 'label_recovery_low', 'label_recovery_high')


def make_audit(
  config: ConfigDict,
  world: scene.World,
  data: scene.Scene,
  oracles: Sequence[train.Fit],
  position: int,
) -> Callable[[Variables], Info]:
  """Creates the audit of a seed.

  The oracle of the seed at `position` is no reference.

  Returns:
    network -> label_recovery_rate, how often the audit tells a label that was
    trained on from another wrong label, with its 95 % interval over images;
    nothing without `audit`, None without wrong labels.
  """
  if not config.audit:
    return lambda variables: {}
  label, truth = np.asarray(data.train.label), np.asarray(data.truth)
  wrong = np.flatnonzero(label != truth)
  # Null columns keep the rows of all seeds alike.
  if not wrong.size:
    return lambda variables: dict.fromkeys(COLUMNS)
  batch = splits.take(data.train, wrong)
  # A batch that is larger than the set would only add padding.
  size = min(config.evaluate.batch_size, wrong.size)
  network = Network(world.model, world.inputs)

  def logits(variables: Variables) -> np.ndarray:
    values = metrics.logits(network, variables, batch, size)
    return np.asarray(values, np.float32)

  # The audit also covers this oracle, which cannot be its own reference.
  others = [fit.variables for i, fit in enumerate(oracles) if i != position]
  # All audited networks of the seed share these references.
  reference = np.stack([logits(v) for v in others]) if others else None

  def audit(variables: Variables) -> Info:
    recovery = audits.recover_labels(
      rng.fold_in(data.key, 'audit'),
      logits(variables),
      label[wrong],
      truth[wrong],
      reference,
    )
    return dict(zip(COLUMNS, recovery[:3], strict=True))

  return audit
