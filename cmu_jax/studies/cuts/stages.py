"""The stages of an experiment: corrupted model, oracle, repairs, controls."""

import functools
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree
from ml_collections import ConfigDict

from cmu_jax.core import checkpoint, jit, rng, store, tree, vectorize
from cmu_jax.core import config as configs
from cmu_jax.core.types import (
  Batch,
  Info,
  MethodInputs,
  Network,
  PRNGKey,
  Variables,
)
from cmu_jax.methods.cuts import (
  algorithm,
  alpha_evidence,
  alpha_search,
  safe_alpha,
  task_simplex,
)
from cmu_jax.methods.unlabelled import halves, information_maximization
from cmu_jax.studies.cuts import backdoor, scene
from cmu_jax.studies.cuts.scene import Case
from cmu_jax.studies.engine import recipes, study
from cmu_jax.studies.engine.store import Clock, TimeIsUp
from cmu_jax.training import train

NOTHING = 'nothing: the model as shipped'
_UNLABELLED = 'weights + unlabelled proxy images'
# All alphas of a grid share one compiled program.
_edit = jax.jit(tree.edit)


class Repair(NamedTuple):
  """Result of a method for one seed."""

  variables: Variables
  information: str
  facts: Info  # what goes into the row besides accuracies: alpha, selected
  # Networks along a leading axis whose probabilities are averaged, if that is
  # the answer; `variables` is then the network in their middle.
  members: Variables | None = None


class Checkpoints(NamedTuple):
  """Location and schedule of the checkpoints of a stage."""

  folder: pathlib.Path
  fingerprint: str
  seconds: float  # between two checkpoints of one training
  clock: Clock = Clock()  # ends a training that saves itself after the deadline


def locate_checkpoints(
  config: ConfigDict, workdir: pathlib.Path
) -> Checkpoints:
  """Locates the checkpoints of a run."""
  return Checkpoints(
    workdir / 'checkpoints',
    configs.fingerprint(config),
    config.checkpoint_seconds,
  )


def make_checkpoint(
  checkpoints: Checkpoints, name: str, seed: str | int
) -> store.Checkpoint:
  """Creates the checkpoint of a training: <folder>/<stage>/seed_<seed>."""
  folder = checkpoints.folder / name / f'seed_{seed}'
  if jax.process_count() > 1:
    # Orbax makes all processes of a distributed run save the same state, while
    # the processes of a study train networks of their own.
    file = store.npz_checkpoint(
      folder, 'state', checkpoints.seconds, 'distributed'
    )
  else:
    file = store.Checkpoint(
      lambda template: checkpoint.restore(
        folder, template, checkpoints.fingerprint
      ),
      lambda state, step: checkpoint.save(
        folder, step, state, checkpoints.fingerprint
      ),
      checkpoints.seconds,
    )

  def save(state: PyTree, step: int) -> None:
    file.save(state, step)
    # The check follows the save, so that a restart continues from here.
    if checkpoints.clock.is_late():
      raise TimeIsUp

  return file._replace(save=save)


def trains_together(sizes: list[int]) -> bool:
  """Returns whether the networks of all seeds train in one program.

  On a CPU, `vmap` gains nothing and holds the data of all seeds at once. One
  program needs sets of one size; sets that people labelled rightly differ.
  """
  alike = len(set(sizes)) == 1 < len(sizes)
  return alike and vectorize.default_strategy() != 'map'


def train_all(
  name: str,
  world: scene.World,
  keys: list[PRNGKey],
  starts: list[Variables],
  batches: list[Batch],
  settings: ConfigDict,
  checkpoints: Checkpoints,
  seeds: tuple[int, ...],
) -> list[train.Fit]:
  """Trains one network a seed, in the way that suits the backend."""
  sizes = [batch.label.shape[0] for batch in batches]
  options = [recipes.fit_options(settings, size, 'train') for size in sizes]
  if not trains_together(sizes):
    return [
      train.fit(
        key,
        Network(world.model, world.inputs),
        start,
        batch,
        chosen,
        train.Session(
          f'{name}, seed {seed}', make_checkpoint(checkpoints, name, seed)
        ),
      )
      for key, start, batch, seed, chosen in zip(
        keys, starts, batches, seeds, options, strict=True
      )
    ]
  # The name lists the seeds, because other seeds give another stack.
  together = '_'.join(map(str, seeds))
  stacked = train.fit(
    jnp.stack(keys),
    Network(world.model, world.inputs),
    tree.stack(starts),
    tree.stack(batches),
    options[0],
    train.Session(
      f'{name}, seeds {together}', make_checkpoint(checkpoints, name, together)
    ),
    strategy='vmap',
  )
  return [
    train.Fit(
      tree.index(stacked.variables, i),
      stacked.history[i],
      stacked.images_per_second,
    )
    for i in range(len(seeds))
  ]


def count_images(config: ConfigDict, data: scene.Scene, test: int) -> float:
  """Counts the training images of `repair` and of its measurements.

  Args:
    config: every setting.
    data: of the seed.
    test: number of test images.
  """
  (draws, size), folds = data.proxy.label.shape, config.select.folds
  count = functools.partial(recipes.count_images, config.proxy_train)
  trained = draws * count(size, 'proxy_train')
  if folds:
    trained += folds * draws * count(size - size // folds, 'proxy_train')
  trained += recipes.count_images(
    config.finetune, data.clean_proxy.label.size, 'finetune'
  )
  curves = 1
  if config.task == 'poison':
    # The baselines of `backdoor`, and curves of images without a trigger.
    trained += count(size, 'proxy_train') + count(2 * size, 'proxy_train')
    curves = 2
  points = alpha_search.selection_grid(make_selection(config)).size
  # A curve of the whole proxy, one of each fold's share of it. The search of
  # neighbours makes their images as costly as those of a training.
  trained += points * size * (1 + curves * bool(folds))
  # The rows of the tables, and the test scores over alpha.
  return trained + study.FORWARD * test * (8 + draws + config.evaluate.points)


def repair(case: Case) -> tuple[dict[str, Repair], Info, dict[str, train.Fit]]:
  """Repairs a network by CUTS, its controls and baselines.

  Returns:
    The repairs by method name, CUTS's info, and the fits by stage name.
  """
  config, corrupted = case.config, case.corrupted
  key = rng.fold_in(case.data.key, 'unlearn')
  repaired, info, fits = _repair_by_cuts(key, case)
  for name, kind in (
    ('random_vector', 'normal'),
    ('random_vector_uniform', 'uniform'),
  ):
    noise = jit.compile_cheaply(tree.random_like, 2)(
      rng.fold_in(key, name), info['tau'], kind
    )
    # Norms and alpha are those of CUTS, so only the direction differs.
    repaired[name] = Repair(
      edit_weights(corrupted, noise, info['alpha']),
      'weights + norms of the task vector',
      {'alpha': info['alpha']},
    )
  if config.task == 'label_noise' and config.adapt.steps:
    repaired |= _repair_unlabelled(key, case, repaired)
  if config.task == 'poison':
    baselines, tuned = backdoor.repair(case)
    repaired |= {name: Repair(*result) for name, result in baselines.items()}
    fits |= tuned
  # This baseline knows more than CUTS: the true labels of the proxy.
  proxy = case.data.clean_proxy
  clean = train.fit(
    rng.fold_in(key, 'finetune'),
    Network(case.world.model, case.world.inputs),
    corrupted,
    proxy,
    recipes.fit_options(config.finetune, proxy.label.shape[0], 'finetune'),
    train.Session(
      f'fine-tuning on clean proxy labels, seed {case.seed}',
      case.checkpoint('finetune'),
    ),
  )
  repaired['finetune_clean_proxy'] = Repair(
    clean.variables, 'weights + clean labels of the proxy', {}
  )
  return repaired, info, {**fits, 'finetune': clean}


def _repair_by_cuts(
  key: PRNGKey, case: Case
) -> tuple[dict[str, Repair], Info, dict[str, train.Fit]]:
  """Repairs with the published and with the safe alpha, and as a simplex."""
  config, corrupted, proxy = case.config, case.corrupted, case.data.proxy
  method = algorithm.cuts(
    Network(case.world.model, case.world.inputs),
    selection=make_selection(config),
    checkpoint=case.checkpoint('cuts_proxy'),
    training=recipes.fit_options(
      config.proxy_train, proxy.label.shape[1], 'proxy_train'
    ),
  )
  # The loop below edits the weights, because there may be two rules.
  _, info = method(key, corrupted, MethodInputs(proxy=proxy))
  fits = {'cuts_proxy': info['fit']}
  rules = {'cuts': {'alpha': info['alpha'], 'selected': info['selected']}}
  if config.select.folds:
    choice, vectors = choose_safe_alpha(case)
    info['safe'] = choice.record
    rules['cuts_safe'] = alpha_evidence.facts(choice)
    if config.select.rule == 'safe':
      # Controls and curves read `info`, so they follow the same rule.
      info |= choice.choice._asdict()
      rules['cuts'] = rules['cuts_safe']
    fits |= {'cuts_folds': vectors.fit} if vectors else {}
  repaired = {
    name: Repair(
      edit_weights(corrupted, info['tau'], facts['alpha']),
      'weights + corrupted proxy',
      facts,
    )
    for name, facts in rules.items()
  }
  if proxy.label.shape[0] > 1:  # One vector spans nothing else than CUTS.
    tuned = info['fit'].variables
    members = task_simplex.members(corrupted, tuned, info['alpha'])
    repaired['cuts_simplex'] = repaired['cuts']._replace(members=members)
  return repaired, info, fits


def _repair_unlabelled(
  key: PRNGKey, case: Case, others: dict[str, Repair]
) -> dict[str, Repair]:
  """Repairs by information maximisation, which reads no label.

  Adds to the row of each network the accuracy that both runs on halves of the
  images estimate: how often they give the network's class.

  Args:
    key: of the repairs.
    case: the network and the proxy images.
    others: repairs by other methods; rows of CUTS gain the estimate.
  """
  image, settings = case.data.proxy.image, case.config.adapt
  network = Network(case.world.model, case.world.inputs)
  samples = information_maximization.wrap_pictures(image)
  training = information_maximization.make_training(
    image.shape[0] // 2, **settings
  )
  adapted, _ = information_maximization.information_maximization(
    network, training
  )(rng.fold_in(key, 'adapt'), case.corrupted, MethodInputs(ordinary=samples))
  safe = halves.safe_information_maximization(network, training)
  repaired, info = safe.solve(
    rng.fold_in(key, 'adapt_halves'),
    case.corrupted,
    MethodInputs(ordinary=samples),
    None,
    {},
    lambda name: case.checkpoint(f'adapt_{name}'),
  )
  evidence, runs = info['evidence'], info['runs']
  estimate = lambda v: halves.estimate_accuracy(network, v, runs, samples)
  taken = (
    evidence.accuracy_after[0]
    if evidence.repaired
    else evidence.accuracy_before[0]
  )
  results = {
    'corrupted': Repair(
      case.corrupted,
      NOTHING,
      {'estimated_accuracy': evidence.accuracy_before[0]},
    ),
    'information_maximization': Repair(adapted, _UNLABELLED, {}),
    'information_maximization_safe': Repair(
      repaired,
      _UNLABELLED,
      {'selected': evidence.repaired, 'estimated_accuracy': taken},
    ),
  }
  return results | {
    name: repair._replace(
      facts={
        **repair.facts,
        'estimated_accuracy': estimate(repair.variables),
      }
    )
    for name, repair in others.items()
    if name in ('cuts', 'cuts_safe')
  }


def choose_safe_alpha(
  case: Case,
) -> tuple[alpha_evidence.SafeChoice, safe_alpha.FoldVectors | None]:
  """Chooses the safe alpha of a network; returns its fold vectors too.

  A pool that is too small to be split is no evidence: the rule abstains.
  """
  config = case.config
  return safe_alpha.choose_from_proxy(
    rng.fold_in(case.data.key, 'safe'),
    Network(case.world.model, case.world.inputs),
    case.corrupted,
    case.data.proxy,
    selection=make_selection(config),
    rule=safe_alpha.SafeRule(
      config.corruption.kind == 'symmetric',
      config.select.folds,
      config.select.confidence,
      config.select.replicates,
    ),
    tuning=lambda size: recipes.fit_options(
      config.proxy_train, size, 'proxy_train'
    ),
    checkpoint=case.checkpoint('cuts_folds'),
  )


def make_selection(config: ConfigDict) -> alpha_search.Selection:
  """Reads the rule that chooses alpha from the config."""
  settings = config.select
  return alpha_search.Selection(
    kind=config.task,
    class_share=settings.class_share,
    head_input=settings.head_input,
    patience=settings.patience or None,
    threshold=settings.threshold,
    target=config.corruption.target,
  )


def edit_weights(variables: Variables, tau: PyTree, alpha: float) -> Variables:
  """Returns theta - alpha tau with unchanged BatchNorm statistics."""
  return Variables(_edit(variables.params, tau, alpha), variables.batch_stats)
