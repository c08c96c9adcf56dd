"""One experiment, from config to report: the only imperative module."""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cmu_jax.core import config as config_lib
from cmu_jax.core import files, jit, provenance, rng
from cmu_jax.core.types import Info, Variables
from cmu_jax.studies.cuts import (
  evaluate,
  scene,
  show,
  stages,
  tables,
  telemetry,
)
from cmu_jax.studies.engine import label_recovery, workers
from cmu_jax.training import metrics, train

SCHEMA = 1
Series = list[tuple[str, np.ndarray, np.ndarray]]


@workers.report_device_errors()
def experiment(config: ConfigDict, workdir: pathlib.Path) -> Info:
  """Corrupts, trains, repairs, evaluates and reports; continues if killed.

  Args:
    config: every setting, see `settings.base`.
    workdir: where checkpoints, results and the report go.

  Returns:
    What results.json holds.

  Raises:
    UserError: bad data or settings, a full disk, too little memory, a training
      that diverged.
  """
  with jit.skip_optimizations(config.smoke):
    return _experiment(config, workdir)


def _experiment(config: ConfigDict, workdir: pathlib.Path) -> Info:
  record = provenance.describe_run(config)
  where = stages.kept(config, workdir)
  world = scene.load_world(config)
  label_recovery.check(config, world.dataset.num_classes)
  seeds = tuple(config.seeds)
  places = [scene.draw_scene(config, world, seed) for seed in seeds]
  files.write_json(workdir / 'config.json', config_lib.to_json(config))
  files.write_json(
    workdir / 'corruption.json',
    {
      str(seed): place.record for seed, place in zip(seeds, places, strict=True)
    },
  )
  starts = _starts(world, places)
  keys = [rng.fold_in(place.key, 'train') for place in places]
  fits = {
    name: stages.train_all(
      name, world, keys, starts, batches, config.train, where, seeds
    )
    for name, batches in (
      ('corrupted', [place.train for place in places]),
      ('oracle', [place.clean for place in places]),
    )
  }
  series = _series(fits, seeds)
  telemetry.write(workdir, series)
  score = evaluate.scorer(config, world)
  found: list[Info] = []
  for place, seed, mix, oracle in zip(
    places, seeds, fits['corrupted'], fits['oracle'], strict=True
  ):
    outcome = _one_seed(
      config,
      world,
      place,
      where,
      seed,
      score,
      mix.variables,
      oracle.variables,
      label_recovery.auditor(config, world, place, fits['oracle'], len(found)),
      first=not found,
    )
    found.append(outcome)
    series += _series({n: [f] for n, f in outcome['fits'].items()}, (seed,))
  telemetry.write(workdir, series + _scores(found))
  results = _results(config, world, record, found)
  _write_arrays(workdir / 'arrays.npz', found)
  # A sweep passes over what is finished, so that is said last.
  files.write_json(workdir / 'results.json', {**results, 'finished': False})
  page = show.build(workdir)
  files.write_json(workdir / 'results.json', results)
  tables.console(results)
  _print_throughput(fits)
  print(f'report: {page}')
  return results


def _starts(world: scene.World, places: list[scene.Scene]) -> list[Variables]:
  """The initial weights of every seed, for corrupted model and oracle."""
  image = world.inputs.eval(world.dataset.test.image[:1], None)
  init = jit.compile_cheaply(world.model.init)
  return [init(rng.fold_in(place.key, 'init'), image) for place in places]


def _one_seed(
  config: ConfigDict,
  world: scene.World,
  place: scene.Scene,
  where: stages.Kept,
  seed: int,
  score: Any,
  corrupted: Variables,
  oracle: Variables,
  audited: Callable[[Variables], Info],
  first: bool,
) -> Info:
  """Repairs and evaluates one seed."""
  found, info, fits = stages.repairs(
    config, world, place, corrupted, where, seed
  )
  everything = {
    'corrupted': stages.Repair(corrupted, 'nothing: the model as shipped', {}),
    **found,
    'oracle': stages.Repair(oracle, 'all training data, clean labels', {}),
  }
  scores = {n: score(r.variables, r.members) for n, r in everything.items()}
  single = {n: r for n, r in everything.items() if r.members is None}
  leaks = {n: audited(r.variables) for n, r in single.items()}
  columns, best = evaluate.along(config, score, corrupted, info)
  scores['cuts_best_alpha'] = best['score']
  everything['cuts_best_alpha'] = stages.Repair(
    corrupted,
    'test labels'
    if config.task == 'label_noise'
    else 'lowest proxy attack success',
    {'alpha': best['alpha']},
  )
  path = evaluate.feature_path(config, world, corrupted, info) if first else {}
  return {
    'seed': seed,
    'rows': [
      _row(name, seed, everything[name], scores) | leaks.get(name, {})
      for name in everything
    ],
    'per_class': [
      {
        'method': name,
        'seed': seed,
        'accuracy': metrics.class_accuracy(s.counts),
      }
      for name, s in scores.items()
    ],
    'curve': {
      'seed': seed,
      **{k: metrics.json_list(v) for k, v in info['curve'].items()},
      'alpha_hat': info['alpha'],
      'selected': info['selected'],
      'evaluated': columns,
      **({'safe': info['safe']} if 'safe' in info else {}),
    },
    'confusion': {n: scores[n].counts for n in ('corrupted', 'cuts')},
    'path': path,
    'fits': fits,
  }


def _row(
  name: str, seed: int, repair: stages.Repair, scores: dict[str, Any]
) -> Info:
  """One flat object of results.json."""
  values = scores[name].values
  accuracy = {n: s.values['test_accuracy'] for n, s in scores.items()}
  return {
    'method': name,
    'seed': seed,
    'alpha': None,
    'selected': None,
    'information': repair.information,
    **repair.facts,
    **values,
    'recovery_percent': metrics.recovery_rate(
      values['test_accuracy'], accuracy['corrupted'], accuracy['oracle']
    ),
  }


def _results(
  config: ConfigDict, world: scene.World, record: Info, found: list[Info]
) -> Info:
  """results.json; its schema is documented in docs/run_folder.md."""
  return {
    'schema': SCHEMA,
    'name': config.name,
    'task': config.task,
    'smoke': config.smoke,
    'finished': True,
    'provenance': record,
    'config': config_lib.to_json(config),
    'class_names': list(world.dataset.class_names),
    'rows': [row for outcome in found for row in outcome['rows']],
    'per_class': [row for outcome in found for row in outcome['per_class']],
    'curves': [outcome['curve'] for outcome in found],
  }


def _series(fits: dict[str, list[train.Fit]], seeds: tuple[int, ...]) -> Series:
  """Loss and accuracy of every training step; draws of a proxy averaged."""
  found: Series = []
  for name, members in fits.items():
    for seed, fit in zip(seeds, members, strict=True):
      history = np.asarray(fit.history)
      history = history.mean(0) if history.ndim == 3 else history
      steps = np.arange(len(history))
      for column, value in enumerate(('loss', 'accuracy')):
        tag = f'{name}/seed_{seed}/{value}'
        found.append((tag, steps, history[:, column]))
  return found


def _scores(found: list[Info]) -> Series:
  """The numbers of the rows as scalars at step 0."""
  return [
    (
      f'result/{row["method"]}/seed_{row["seed"]}/{name}',
      np.zeros(1, int),
      np.array([row[name]]),
    )
    for outcome in found
    for row in outcome['rows']
    for name in evaluate.TESTED
    if row[name] is not None
  ]


def _write_arrays(path: pathlib.Path, found: list[Info]) -> None:
  arrays: Info = {
    f'confusion_{name}': np.stack([o['confusion'][name] for o in found])
    for name in ('corrupted', 'cuts')
  }
  files.write(
    path, lambda file: np.savez(file, **{**arrays, **found[0]['path']})
  )


def _print_throughput(fits: dict[str, list[train.Fit]]) -> None:
  """Images a second of the trainings of this process, if any was run."""
  rates = [
    fit.images_per_second
    for members in fits.values()
    for fit in members
    if fit.images_per_second
  ]
  if rates:
    print(f'training throughput: {np.median(rates):,.0f} images/s')
