"""The CUTS study: corrupt, train, repair and evaluate, seed by seed.

A cell is one seed: its repairs and everything that is measured on them. The
networks of a seed have cells of their own, because an accelerator trains the
networks of all seeds in one program.
"""

import functools
import math
import pathlib
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cmu_jax.core import config as config_lib
from cmu_jax.core import files, jit, provenance, rng
from cmu_jax.core.types import Info, Variables
from cmu_jax.studies.cuts import (
  evaluate,
  report,
  scene,
  settings,
  stages,
  telemetry,
)
from cmu_jax.studies.cuts.scene import Scene
from cmu_jax.studies.engine import checks, recipes, study, workers
from cmu_jax.studies.engine.study import Context, Note, Phase, Plan, Study
from cmu_jax.training import metrics, train

# Raised when the numbers of a cell change.
_VERSION = 2
_TRAININGS = ('corrupted', 'oracle')


class World(NamedTuple):
  """Values that all cells share."""

  shared: scene.World
  scenes: dict[int, Scene]  # seed -> its data: corrupted training set, proxy
  digest: str


class Program(NamedTuple):
  """Program that trains networks: its stage, and the seeds in it."""

  method: str
  seeds: tuple[int, ...]


class Repairs(NamedTuple):
  """The repairs of one seed."""

  seed: int


def load(config: ConfigDict, folder: pathlib.Path) -> World:
  """Loads the dataset and draws the corruption of every seed.

  Raises:
    UserError: bad data, or settings that do not fit the data.
  """
  del folder
  shared = scene.load_world(config)
  checks.check_label_audit(config, shared.dataset.num_classes)
  scenes = {
    seed: scene.draw_scene(config, shared, seed) for seed in config.seeds
  }
  return World(shared, scenes, provenance.dataset_digest(shared.dataset))


def _address(context: Context[World], item: Program | Repairs) -> str:
  """The work folder belongs to one config, and so does every cell in it."""
  return config_lib.fingerprint(
    {
      'version': _VERSION,
      'config': config_lib.fingerprint(context.config),
      'data': context.world.digest,
      'item': [type(item).__name__, *item],
    }
  )


def _programs(context: Context[World], stage: str) -> list[Program]:
  """Splits the seeds of a stage into programs."""
  seeds = tuple(context.config.seeds)
  together = stages.trains_together(_sizes(context, stage, seeds))
  groups = [seeds] if together else [(seed,) for seed in seeds]
  return [Program(stage, group) for group in groups]


def _sizes(
  context: Context[World], stage: str, seeds: tuple[int, ...]
) -> list[int]:
  scenes = context.world.scenes
  return [_training_set(scenes[s], stage).label.size for s in seeds]


def _training_set(data: Scene, stage: str) -> Any:
  return data.train if stage == 'corrupted' else data.clean


def _count_training(context: Context[World], program: Program) -> float:
  """Counts the images that a program trains on, see `study.Cell`."""
  count = functools.partial(recipes.count_images, context.config.train)
  return math.fsum(count(n, 'train') for n in _sizes(context, *program))


def _count_repair(context: Context[World], item: Repairs) -> float:
  """Counts the images of the repairs of a seed, see `study.Cell`."""
  data, test = (
    context.world.scenes[item.seed],
    context.world.shared.dataset.test,
  )
  return stages.count_images(context.config, data, test.label.size)


def _train(context: Context[World], program: Program) -> list[train.Fit]:
  """Trains the networks of a program, or restores their last checkpoints."""
  config, world = context.config, context.world
  data = [world.scenes[seed] for seed in program.seeds]
  image = world.shared.inputs.eval(world.shared.dataset.test.image[:1], None)
  # The program runs once a seed, so optimising it would not pay.
  init = jit.compile_cheaply(world.shared.model.init)
  return stages.train_all(
    program.method,
    world.shared,
    [rng.fold_in(d.key, 'train') for d in data],
    [init(rng.fold_in(d.key, 'init'), image) for d in data],
    [_training_set(d, program.method) for d in data],
    config.train,
    _checkpoints(context),
    program.seeds,
  )


def _checkpoints(context: Context[World]) -> stages.Checkpoints:
  checkpoints = stages.locate_checkpoints(context.config, context.store.folder)
  return checkpoints._replace(clock=context.clock)


def _fit(context: Context[World], stage: str, seed: int) -> train.Fit:
  """The training of one seed, restored once a thread."""
  program = next(p for p in _programs(context, stage) if seed in p.seeds)
  fits = context.recent(
    stage,
    program,
    lambda: _train(context, program),
    # An audit compares the oracles of all seeds.
    size=len(context.config.seeds),
  )
  return fits[program.seeds.index(seed)]


def _train_networks(context: Context[World], program: Program) -> Info:
  """Trains a program; its record holds the loss curves."""
  fits = _train(context, program)
  rates = [fit.images_per_second for fit in fits if fit.images_per_second]
  if rates:
    print(f'training throughput: {np.median(rates):,.0f} images/s')
  series = [
    _series(program.method, seed, fit)
    for seed, fit in zip(program.seeds, fits, strict=True)
  ]
  return {'series': [entry for entries in series for entry in entries]}


def _bind_case(context: Context[World], seed: int) -> scene.Case:
  """Collects all that the repairs of a seed need."""
  world, checkpoints = context.world, _checkpoints(context)
  return scene.Case(
    context.config,
    world.shared,
    world.scenes[seed],
    _fit(context, 'corrupted', seed).variables,
    seed,
    lambda stage: stages.make_checkpoint(checkpoints, stage, seed),
  )


def _repair(context: Context[World], item: Repairs) -> Info:
  """Repairs the network of a seed, and evaluates every repair."""
  config, shared = context.config, context.world.shared
  case = _bind_case(context, item.seed)
  corrupted = case.corrupted
  repairs, info, fits = stages.repair(case)
  oracle = _fit(context, 'oracle', item.seed).variables
  networks = {
    'corrupted': stages.Repair(corrupted, stages.NOTHING, {}),
    **repairs,
    'oracle': stages.Repair(oracle, 'all training data, clean labels', {}),
  }
  # Every scorer compiles its own programs, so all seeds share this scorer.
  score = context.recent(
    'scorer', '', lambda: evaluate.make_scorer(config, shared)
  )
  scores = {n: score(r.variables, r.members) for n, r in networks.items()}
  audit = _label_audit(context, item.seed)
  # The audit takes a single network, and an ensemble is none.
  audits = {
    n: audit(r.variables) for n, r in networks.items() if r.members is None
  }
  columns, best = evaluate.evaluate_alphas(config, score, corrupted, info)
  scores['cuts_best_alpha'] = best['score']
  # The diagnosis shows the loss that is due to the choice of alpha.
  networks['cuts_best_alpha'] = stages.Repair(
    corrupted,
    'test labels'
    if config.task == 'label_noise'
    else 'lowest proxy attack success',
    {'alpha': best['alpha']},
  )
  series = [_series(name, item.seed, fit) for name, fit in fits.items()]
  return {
    'rows': [
      _row(name, item.seed, networks[name], scores) | audits.get(name, {})
      for name in networks
    ],
    'per_class': [
      {
        'method': name,
        'seed': item.seed,
        'accuracy': metrics.class_accuracy(s.counts),
      }
      for name, s in scores.items()
    ],
    'curve': {
      'seed': item.seed,
      **{k: metrics.json_list(v) for k, v in info['curve'].items()},
      'alpha_hat': info['alpha'],
      'selected': info['selected'],
      'evaluated': columns,
      **({'safe': info['safe']} if 'safe' in info else {}),
    },
    'confusion': {
      name: np.asarray(scores[name].counts).tolist()
      for name in ('corrupted', 'cuts')
    },
    'path': _feature_path(context, item.seed, corrupted, info),
    'series': [entry for entries in series for entry in entries],
  }


def _label_audit(context: Context[World], seed: int) -> Any:
  """Creates the audit of a seed: network -> columns of its row."""
  config, world = context.config, context.world
  seeds = tuple(config.seeds)
  oracles = [_fit(context, 'oracle', s) for s in seeds] if config.audit else []
  data, position = world.scenes[seed], seeds.index(seed)
  return evaluate.make_audit(config, world.shared, data, oracles, position)


def _feature_path(
  context: Context[World], seed: int, corrupted: Variables, info: Info
) -> dict[str, list]:
  """Computes the arrays of the figure, which shows the first seed alone."""
  if seed != context.config.seeds[0]:
    return {}
  arrays = evaluate.trace_features(
    context.config, context.world.shared, corrupted, info
  )
  return {name: array.tolist() for name, array in arrays.items()}


def _row(
  name: str, seed: int, repair: stages.Repair, scores: dict[str, Any]
) -> Info:
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


def _series(stage: str, seed: int, fit: train.Fit) -> list[list[Any]]:
  """Lists [tag, steps, values] of a training, thinned as it is written."""
  history = np.asarray(fit.history)
  # The draws of a proxy train as a stack: their mean is shown.
  history = history.mean(0) if history.ndim == 3 else history
  series = []
  for column, value in enumerate(('loss', 'accuracy')):
    tag = f'{stage}/seed_{seed}/{value}'
    points = telemetry.thin(np.arange(len(history)), history[:, column])
    series.append([tag, *(x.tolist() for x in points)])
  return series


def _score_series(rows: list[Info]) -> list[list[Any]]:
  """Lists the numbers of the rows as scalars at step 0."""
  return [
    [f'result/{row["method"]}/seed_{row["seed"]}/{name}', [0], [row[name]]]
    for row in rows
    for name in evaluate.TESTED
    if row[name] is not None
  ]


def _write_telemetry(context: Context[World], series: list[list[Any]]) -> None:
  # Several workers may share the folder, so a single worker writes.
  if workers.is_chief():
    telemetry.write(
      context.store.folder,
      [(tag, np.array(steps), np.array(x)) for tag, steps, x in series],
    )


def _write_arrays(context: Context[World], records: list[Info]) -> None:
  """Writes confusions and the feature path, which are no rows."""
  if not records or not workers.is_chief():
    return
  arrays: Info = {
    f'confusion_{name}': np.array([r['confusion'][name] for r in records])
    for name in ('corrupted', 'cuts')
  }
  path = records[0]['path']
  arrays |= {name: np.array(values) for name, values in path.items()}
  if path:
    # Records are JSON, which loses the types of arrays.
    arrays['feature_path'] = arrays['feature_path'].astype(np.float32)
    label = context.world.shared.dataset.test.label
    arrays['feature_path_label'] = arrays['feature_path_label'].astype(
      np.asarray(label[:1]).dtype
    )
  file = context.store.folder / 'arrays.npz'
  files.write(file, lambda file: np.savez(file, **arrays))


def plan(context: Context[World]) -> Plan:
  """Trains all networks, then repairs seed by seed."""
  config, world = context.config, context.world
  if workers.is_chief():
    corruptions = {str(s): data.record for s, data in world.scenes.items()}
    files.write_json(context.store.folder / 'corruption.json', corruptions)
  programs = [p for stage in _TRAININGS for p in _programs(context, stage)]
  repairs = study.make_cells(
    *(context, map(Repairs, config.seeds), _address, _repair),
    images=_count_repair,
  )
  cells = study.make_cells(
    *(context, programs, _address, _train_networks), images=_count_training
  )
  later = math.fsum(cell.images for cell in repairs)
  trained = yield Phase('trainings', cells, later=later, is_covered=True)
  series = [entry for _, record in trained for entry in record['series']]
  # A run that stops during the repairs has its training curves already.
  _write_telemetry(context, series)
  repaired = yield Phase('repairs', repairs, is_covered=True)
  records = [record for _, record in repaired]
  rows = [row for record in records for row in record['rows']]
  series += [entry for record in records for entry in record['series']]
  _write_telemetry(context, series + _score_series(rows))
  _write_arrays(context, records)
  return {
    'class_names': list(world.shared.dataset.class_names),
    'rows': rows,
    'per_class': [row for record in records for row in record['per_class']],
    'curves': [record['curve'] for record in records],
  }


def note(item: Any, record: Info) -> Note:
  """Shows the test accuracy after CUTS, or of a training its accuracy."""
  if isinstance(item, Program):
    accuracies = [
      e[2][-1] for e in record['series'] if e[0].endswith('accuracy')
    ]
    return Note(
      {'method': f'{item.method}, training'},
      'accuracy',
      float(np.mean(accuracies)),
    )
  values = {row['method']: row['test_accuracy'] for row in record['rows']}
  return Note({'method': 'cuts'}, 'accuracy', values['cuts'])


def _create(task: str) -> Study:
  return Study(
    task=task,
    check=settings.check,
    load=load,
    plan=plan,
    note=note,
    measured='accuracy',
    report=report.REPORT,
  )


LABEL_NOISE, POISON = _create('label_noise'), _create('poison')
