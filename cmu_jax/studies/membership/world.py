"""What all networks of an audit share, and which points they are trained on."""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from cmu_jax import audits
from cmu_jax.audits import shadow
from cmu_jax.core import config as config_lib
from cmu_jax.core import errors, rng
from cmu_jax.core.types import (
  Batch,
  Dataset,
  InputStep,
  MethodInputs,
  Model,
  Network,
  PRNGKey,
  Variables,
)
from cmu_jax.data import splits
from cmu_jax.studies.engine import binding, catalogue, recipes
from cmu_jax.studies.membership import settings
from cmu_jax.training import descent


class Place(NamedTuple):
  """What all networks share.

  Attributes:
    config: every setting.
    folder: the work folder.
    dataset: training and test split as shipped.
    pool: both as one, an even number of images: who is a member is drawn anew.
    model: the network.
    inputs: raw pixels to network input.
  """

  config: ConfigDict
  folder: pathlib.Path
  dataset: Dataset
  pool: Batch
  model: Model
  inputs: InputStep


def load(config: ConfigDict, folder: pathlib.Path) -> Place:
  """Checks the settings, loads the data and binds everything.

  Raises:
    UserError: bad data or settings, in one line.
  """
  settings.check(config)
  dataset = binding.load(config).dataset
  inputs = binding.pixels(config.input, dataset, None)
  model = binding.network(config.model, dataset, inputs)
  whole = Batch(
    jnp.concatenate([dataset.train.image, dataset.test.image]),
    jnp.concatenate([dataset.train.label, dataset.test.label]),
  )
  size = whole.label.shape[0] // 2 * 2
  pool = splits.take(whole, np.arange(size))
  errors.check(
    0 < forgotten(config, size) < size // 2,
    f'config.fraction is {config.fraction}: of {size // 2} training images '
    f'that forgets {forgotten(config, size)}; leave one to forget and one to '
    'retain',
  )
  return Place(config, folder, dataset, pool, model, inputs)


def forgotten(config: ConfigDict, size: int) -> int:
  """How many points a network trained on half of `size` is to forget."""
  return round(config.fraction * (size // 2))


def forget(
  key: PRNGKey, inside: Bool[np.ndarray, 'k n'], count: int
) -> Bool[np.ndarray, 'k n']:
  """`count` of the points of each network, drawn at random."""
  draw = lambda i: np.asarray(
    jax.random.permutation(rng.fold_in(key, i), inside.shape[1])
  )
  order = np.stack([draw(i) for i in range(len(inside))])
  # Members first, in a random order; the others never come.
  rank = np.argsort(np.argsort(np.where(inside, order, order + order.size)))
  return rank < count


def audited(place: Place) -> Bool[np.ndarray, 's n']:
  """The training set of the audited network of each seed: half of the pool."""
  size = place.pool.label.shape[0]
  return np.stack(
    [
      shadow.assign_halves(rng.fold_in(seed, 'members'), 2, size)[0]
      for seed in place.config.seeds
    ]
  )


def hit(
  logits: Float[Array, 'n k'], label: Int[Array, 'n']
) -> Bool[Array, 'n']:
  """Whether the answer is right."""
  return jnp.argmax(logits, axis=-1) == label


def train(
  place: Place,
  name: str,
  inside: Bool[np.ndarray, 'k n'],
  forget: Bool[np.ndarray, 'k n'] | None = None,
  method: str = '',
  kept: bool = False,
) -> shadow.Shadows:
  """Trains networks, and has them forget.

  Args:
    place: of the audit.
    name: of the networks: the same name and points are the same networks.
    inside: which of them is trained on which point.
    forget: what each forgets; with `method`.
    method: a name of the roster; '' for none.
    kept: whether methods are to start from them.
  """
  config = place.config
  rows = int(inside.sum(axis=1).max())
  signal = config.rmia.signal
  return shadow.train(
    rng.fold_in(0, name),
    place.model,
    place.pool,
    inside,
    shadow.ShadowTraining(
      place.inputs, *recipes.fit_options(config.train, rows, 'train')
    ),
    signals={
      signal: audits.SIGNALS[signal],
      'logit_confidence': audits.logit_confidence,
      'hit': hit,
    },
    forget=forget,
    weights=kept,
    unlearn=unlearner(place, method) if method else None,
    plan=shadow.Plan(
      group=config.group,
      memory_bytes=int(config.memory * 2**30),
      save_seconds=config.checkpoint_seconds,
      folder=place.folder,
      address=_address(place, ''),
      method=_address(place, method) if method else '',
      images_at_once=config.evaluate.batch_size,
      title=f'{name}, then {method}' if method else name,
    ),
  )


def _address(place: Place, method: str) -> str:
  parts: dict[str, Any] = {
    name: place.config[name] for name in ('model', 'input', 'train')
  }
  if method:
    parts |= {
      name: place.config[name] for name in ('unlearn', 'learning_rates')
    }
  return config_lib.fingerprint({'version': 1, 'method': method, **parts})


def unlearner(place: Place, method: str) -> shadow.Unlearn:
  """A method as what shadow models do once they are trained.

  Args:
    place: of the audit.
    method: a name of the roster.
  """
  size = place.pool.label.shape[0]
  gone = forgotten(place.config, size)
  sizes = catalogue.Sizes(size // 2 - gone, gone)
  made = catalogue.make(
    place.config, Network(place.model, place.inputs), sizes, method
  )

  def unlearn(
    key: PRNGKey,
    variables: Variables,
    rest: Int[np.ndarray, '_'],
    out: Int[np.ndarray, '_'],
  ) -> Variables:
    sets = {'retain': rest, 'forget': out}
    parts: dict[str, Any] = {}
    for part in made.needs:
      rows = sets[part]
      known = part == 'forget'
      parts[part] = descent.gather_samples(place.pool, rows, rows.size, known)
    given = MethodInputs(**parts)
    prepared = made.prepare(rng.fold_in(key, 'prepare'), variables, given)
    point = made.grid[0]
    solve_key = rng.fold_in(key, 'solve')
    return made.solve(solve_key, variables, given, prepared, point)[0]

  return unlearn
