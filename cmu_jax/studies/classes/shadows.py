"""Shadow models of U-LiRA: K that forget a class, and K without the class.

A run reports on too few networks of its own to fit Gaussians to them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from cmu_jax import audits
from cmu_jax.audits import shadow, ulira_scores
from cmu_jax.core import config as config_lib
from cmu_jax.core import rng, tree
from cmu_jax.core.types import Info, Variables
from cmu_jax.studies.classes import measure, retrained, trials
from cmu_jax.studies.classes import world as worlds
from cmu_jax.studies.classes.measure import Reference
from cmu_jax.studies.classes.trials import RETRAIN, ClassTrial
from cmu_jax.studies.engine import grids, pool, recipes, references
from cmu_jax.studies.engine.pool import World
from cmu_jax.studies.engine.study import Cell, Context

Statistics = dict[str, Float[np.ndarray, 'k m']]


class ShadowStatistics(NamedTuple):
  """Statistics that U-LiRA of a class compares."""

  # Method -> values of K networks that it made to forget the class.
  unlearned: dict[str, Statistics]
  retrained: Statistics  # values of K networks that were trained without it


def _make_job(
  context: Context[World], name: str, inside: Bool[np.ndarray, 'n']
) -> shadow.ShadowJob:
  """Prepares K networks that are trained on the same images."""
  config, world = context.config, context.world
  training = recipes.fit_options(config.train, int(inside.sum()), 'train')
  return shadow.make_job(
    rng.fold_in(0, name),
    world.network.model,
    world.dataset.train,
    # The models differ by first weights and sample order alone.
    np.tile(inside, (config.shadows, 1)),
    shadow.ShadowTraining(world.network.inputs, *training),
    shadow.Plan(
      save_seconds=config.checkpoint_seconds,
      folder=context.store.folder,
      address=pool.network_address(context, 'shadow'),
      title=name,
    ),
    weights=True,
  )


def original_job(context: Context[World]) -> shadow.ShadowJob:
  """Prepares the K networks that will forget."""
  size = context.world.dataset.train.label.shape[0]
  return _make_job(context, 'shadow models', np.ones(size, bool))


def retrained_job(
  context: Context[World], forget_class: int
) -> shadow.ShadowJob:
  """Prepares K networks without a class."""
  label = np.asarray(context.world.dataset.train.label)
  name = f'shadow models without class {forget_class}'
  return _make_job(context, name, label != forget_class)


def _get_model(
  context: Context[World], job: shadow.ShadowJob, number: int
) -> Variables:
  """Returns a shadow model; the last job stays in memory."""
  shadows = context.recent(
    'shadows', job.plan.title, lambda: references.read_shadows(context, job)
  )
  return jax.tree.map(jnp.asarray, tree.index(shadows.variables, number))


def _measure(
  context: Context[World], network: Variables, reference: Reference
) -> Info:
  logits = pool.compute_logits(context, network)
  return measure.rounded_statistics(context, logits, reference)


def list_cells(
  context: Context[World],
  forget_class: int,
  hypers: Mapping[str, dict[str, float]],
) -> list[Cell]:
  """Lists the cells of all methods on all shadow models of a class."""
  return [
    _shadow_cell(context, ClassTrial(number, forget_class, method), hyper)
    for method, hyper in hypers.items()
    # The models as trained need no cell: `collect_statistics` looks at them.
    if method != grids.NONE
    for number in range(context.config.shadows)
  ]


def _shadow_cell(
  context: Context[World], trial: ClassTrial, hyper: dict[str, float]
) -> Cell:
  # The statistics of a record are of this class, which depends on floats.
  nearest = retrained.get_reference(context, trial.forget_class, False).nearest
  address = config_lib.fingerprint(
    {
      'shadow': pool.network_address(context, 'shadow'),
      'nearest': nearest,
      'cell': trials.trial_address(context, trial, (hyper,)),
    }
  )
  return pool.trial_cell(
    trial, address, lambda: _solve_trial(context, trial, hyper)
  )


def _solve_trial(
  context: Context[World], trial: ClassTrial, hyper: dict[str, float]
) -> list[Info]:
  """Makes a shadow model forget a class, for its statistics."""
  method = context.world.methods[trial.method]
  reference = retrained.get_reference(context, trial.forget_class, False)
  return grids.solve_grid(
    rng.fold_in(0, 'shadow', *map(str, trial)),
    method,
    _get_model(context, original_job(context), trial.seed),
    worlds.select_class(context.world, trial.forget_class, method.needs),
    (hyper,),
    lambda network: _measure(context, network, reference),
  )


def _job_rows(
  context: Context[World], job: shadow.ShadowJob, reference: Reference
) -> list[Info]:
  """Measures the shadow models of a job as they were trained."""
  return [
    _measure(context, _get_model(context, job, number), reference)
    for number in range(context.config.shadows)
  ]


def collect_statistics(
  context: Context[World], forget_class: int, rows: Mapping[str, list[Info]]
) -> ShadowStatistics | None:
  """Collects the statistics of a class.

  Methods with a diverged network are left out. The result is None if shadow
  models or rows are absent.
  """
  jobs = original_job(context), retrained_job(context, forget_class)
  complete = all(len(r) == context.config.shadows for r in rows.values())
  if not complete or not all(references.is_trained(context, j) for j in jobs):
    return None
  reference = retrained.get_reference(context, forget_class, False)
  unlearned = {grids.NONE: _stack(_job_rows(context, jobs[0], reference))}
  for method, method_rows in rows.items():
    # Fewer networks than of the others would not be comparable.
    if not any(row['diverged'] for row in method_rows):
      unlearned[method] = _stack(method_rows)
  without = _stack(_job_rows(context, jobs[1], reference))
  return ShadowStatistics(unlearned, without)


def _stack(rows: list[Info]) -> Statistics:
  return {
    name: np.array([row[name] for row in rows]) for name in measure.STATISTICS
  }


Values = np.ndarray


def _attack_row(
  forget_class: int, method: str, name: str, unlearned: Values, control: Values
) -> Info:
  """Computes AUC and balanced accuracy over held-out networks."""
  # Each network is scored by Gaussians of the others.
  scores = audits.ulira_of_class(unlearned, control)
  sides = scores.forgotten, scores.unseen
  return {
    'forget_class': forget_class,
    'method': method,
    'statistic': name,
    'ulira_auc': audits.auc(*sides),
    'ulira_accuracy': audits.balanced_accuracy(*sides),
    'unlearned': len(unlearned),
    'retrained': len(control),
  }


def _control_rows(forget_class: int, name: str, without: Values) -> list[Info]:
  """Compares halves of the retrained networks, as an estimate of chance."""
  # An even split, because U-LiRA fits Gaussians to both sides.
  half = len(without) // 2
  if half < ulira_scores.MIN_MODELS:
    return []
  sides = without[:half], without[half:]
  return [_attack_row(forget_class, RETRAIN, name, *sides)]


def collect_own_statistics(
  context: Context[World],
  forget_class: int,
  rows: Sequence[tuple[ClassTrial, Info]],
) -> ShadowStatistics:
  """Collects the statistics of the networks that the run reports on.

  A diverged network has no statistics.
  """
  reference = retrained.get_reference(context, forget_class, False)
  by_method: dict[str, list[Info]] = {}
  for trial, row in rows:
    if 'statistics' in row:
      by_method.setdefault(trial.method, []).append(row['statistics'])
  unlearned = {
    method: {
      name: np.array([value[name] for value in values])
      for name in measure.STATISTICS
    }
    for method, values in by_method.items()
    # Fewer give no Gaussian once one is held out.
    if len(values) >= ulira_scores.MIN_MODELS
  }
  logits = retrained.read_outputs(context, forget_class).logits
  without = measure.statistics(context, logits, reference)
  return ShadowStatistics(unlearned, without)


def list_rows(forget_class: int, statistics: ShadowStatistics) -> list[Info]:
  """Attacks every method of a class.

  Returns:
    ulira_auc and ulira_accuracy (balanced) by method and statistic: the
    confidence in the class itself ('own'), or in its nearest class.
  """
  rows: list[Info] = []
  for name in measure.STATISTICS:
    without = statistics.retrained[name]
    rows += _control_rows(forget_class, name, without)
    rows += [
      _attack_row(forget_class, method, name, values[name], without)
      for method, values in statistics.unlearned.items()
    ]
  return rows
