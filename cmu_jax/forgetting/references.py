"""Reference networks for RMIA: each is trained on half of D and D_T.

They come in pairs that share the pool out, so that every point is in exactly
half of them. A group of them is one program over stacked parameters; each
member has images of its own, never a mask on losses: excluded images would
still enter the statistics of a BatchNorm.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from cmu_jax import config as config_lib
from cmu_jax import files, jitting, recipes, rng, splits, sweep, train, tree
from cmu_jax.corrective import originals
from cmu_jax.forgetting import addresses, measure
from cmu_jax.forgetting.measure import References
from cmu_jax.forgetting.place import Place


def halves(models: int, size: int) -> Int[np.ndarray, 'k m']:
  """What each model is trained on; models 2i and 2i + 1 share nothing.

  Of an odd pool a pair leaves one point out.

  Args:
    models: an even number.
    size: of the pool.
  """
  half = size // 2
  draw = lambda i: np.asarray(
    jax.random.permutation(rng.named(0, 'references', i), size)
  )
  orders = [draw(i)[: 2 * half] for i in range(models // 2)]
  return np.sort(np.concatenate([x.reshape(2, half) for x in orders]), axis=1)


def membership(
  index: Int[np.ndarray, 'k m'], size: int
) -> Bool[np.ndarray, 'k n']:
  """Which model was trained on which point."""
  inside = np.zeros((len(index), size), bool)
  np.put_along_axis(inside, index, True, axis=1)
  return inside


def _train(
  place: Place, numbers: range, index: Int[np.ndarray, 'g m'], name: str
) -> Float[np.ndarray, 'g n']:
  """Signals of one group, trained together."""
  config, batch = place.config, splits.take(place.pool, index[0])
  keys = jnp.stack([rng.named(0, 'reference', i) for i in numbers])
  image = place.inputs.eval(batch.image[:1], None)
  draw = lambda key: place.model.init(rng.named(key, 'init'), image)
  stacked = tree.stack([splits.take(place.pool, rows) for rows in index])
  fitted = train.fit(
    jax.vmap(lambda key: rng.named(key, 'train'))(keys),
    place.model,
    jitting.once(jax.vmap(draw))(keys),
    stacked,
    inputs=place.inputs,
    how=sweep.strategy(),
    checkpoint=originals.saving(place.folder, name, config.checkpoint_seconds),
    title=f'references {numbers[0]} to {numbers[-1]}',
    **recipes.fit_options(config.train, index.shape[1], 'train'),
  )
  found = [
    measure.look(place, tree.index(fitted.variables, i))
    for i in range(len(numbers))
  ]
  return np.stack(
    [measure.signal(place, config.rmia.signal, logits) for logits in found]
  )


def _group(
  place: Place, numbers: range, index: Int[np.ndarray, 'g m']
) -> Float[np.ndarray, 'g n']:
  """Signals of one group, from its file if it is done."""
  name = config_lib.fingerprint(
    {
      'shared': addresses.trained(place, 'reference'),
      'numbers': list(numbers),
      'of': place.config.references,
      'signal': place.config.rmia.signal,
    }
  )
  path = place.folder / 'references' / f'{name[:24]}.npz'
  if not path.exists():
    found = _train(place, numbers, index, name)
    files.write(path, lambda file: np.savez(file, probability=found))
    # Nobody asks for the weights again.
    originals.drop(place.folder, name)
  with np.load(path, allow_pickle=False) as stored:
    return stored['probability']


def references(place: Place) -> References | None:
  """Trains what is not done yet; None where there are none."""
  count = place.config.references
  if not count:
    return None
  size = place.pool.label.shape[0]
  index = halves(count, size)
  step = place.config.reference_group
  found = [
    _group(place, range(i, min(i + step, count)), index[i : i + step])
    for i in range(0, count, step)
  ]
  return References(np.concatenate(found), membership(index, size))
