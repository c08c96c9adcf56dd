"""One seed of `simplex_unlearning.py`: every method, judged."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
from simplex_unlearning_world import vectors

from cmu_jax.core import rng
from cmu_jax.core.types import Variables
from cmu_jax.methods import simplex, task_vectors

SIZES = (2, 3, 5, 8)
ENSEMBLES = {
  'vertices': {'method': 'vertices'},
  'sampled': {'method': 'mc'},
  'cubature2': {'method': 'cubature2'},
  'cubature3': {'method': 'cubature3'},
  'taylor2': {'method': 'taylor2', 'directions': 'helmert'},
}
# Beyond, its second derivatives cost over forty forward passes a lambda.
WIDEST_TAYLOR = 5
SPACES = ('probabilities', 'logits')
# The first run on digits stopped at 1, where most choices lay at the end.
LAMBDAS = np.linspace(0, 3, 31)


@functools.lru_cache(maxsize=4)
def network(model):
  """(params, image) -> logits and probabilities, for one pass over both."""

  def run(params, image):
    logits = model.apply(Variables(params, {}), image)
    chances = jax.nn.softmax(logits, axis=-1)
    return {'logits': logits, 'probabilities': chances}

  return run


@functools.lru_cache(maxsize=64)
def estimate(model, name, q):
  """(simplex, lambda, piece of images, key) -> outputs, compiled."""
  options = dict(ENSEMBLES.get(name, {'method': 'centroid'}))
  if name == 'sampled':
    options['n'] = q

  def run(one, scale, image, key):
    return simplex.simplex_ensemble(
      network(model), one.replace(scale=scale), image, key=key, **options
    ).value

  return jax.jit(run)


def outputs(run, one, scale, image, count, key):
  """Outputs of `count` images that lie in pieces of the same size."""
  found = [run(one, jnp.float32(scale), piece, key) for piece in image]
  return {
    space: np.concatenate([part[space] for part in jax.device_get(found)])[
      :count
    ]
    for space in SPACES
  }


def accuracies(logits, batch, forget):
  """Accuracy on the forgotten classes and on the others."""
  label = np.asarray(batch.label)
  right = np.asarray(logits).argmax(-1) == label
  gone = np.isin(label, forget)
  return right[gone].mean(), right[~gone].mean()


def judged(run, one, sets, forget, key, also):
  """Lambda by validation alone, then the test images, for each space.

  Returns:
    Numbers by space, and the test outputs at the strength `also` (None: at the
    one that was chosen for probabilities), and that strength.
  """
  val, test = sets.val, sets.test
  sweep = [
    outputs(run, one, scale, sets.val_image, len(val.label), key)
    for scale in LAMBDAS
  ]
  look = functools.cache(
    lambda scale: outputs(
      run, one, scale, sets.test_image, len(test.label), key
    )
  )
  rows, seen = {}, {}
  for space in SPACES:
    held = [accuracies(out[space], val, forget) for out in sweep]
    rule = task_vectors.choose(LAMBDAS, *zip(*held, strict=True))
    at = rule.position or 0
    also = rule.strength if also is None else also
    lost, kept = accuracies(look(rule.strength)[space], test, forget)
    rows[space] = {
      'lambda': rule.strength,
      'feasible': rule.feasible,
      'validation_forget': float(rule.forget[at]),
      'validation_control': float(rule.control[at]),
      'forget': float(lost),
      'control': float(kept),
    }
    seen[space] = look(also)[space]
  return rows, seen, also


@functools.lru_cache(maxsize=8)
def reference(model, n):
  """(simplex, image, key) -> a fine mean, its error, one network's variance."""

  def run(one, image, key):
    fn = network(model)
    fine = simplex.simplex_ensemble(
      fn, one, image, method='mc_cv', key=key, n=n
    )
    spread = simplex.simplex_ensemble(
      fn, one, image, method='taylor2', directions='helmert'
    ).variance
    return fine.value, fine.error, spread

  return jax.jit(run)


def rms(x) -> float:
  """The root mean square of an array."""
  return float(np.sqrt(np.mean(np.square(np.asarray(x)))))


def seconds_of(run, one, image, key) -> float:
  """Of one strength on a piece, the mean of five runs: nothing is compiled."""
  began = time.perf_counter()
  for _ in range(5):
    jax.block_until_ready(run(one, jnp.float32(0.5), image[0], key))
  return (time.perf_counter() - began) / 5


def cell(flags, place, seed, timed):
  """Everything that one seed says."""
  model = place.model
  base, taus, sets, forget = vectors(flags, place, seed)
  key = rng.fold_in(seed, 'draws')
  look = functools.partial(judged, sets=sets, forget=forget, key=key)
  alone = lambda tau: simplex.TaskSimplex(base, task_vectors.stack([tau]))
  plain = estimate(model, 'centroid', 1)
  single = [look(plain, alone(tau), also=0.0) for tau in taus]
  untouched = {
    name: float(x)
    for name, x in zip(
      ('forget', 'control'),
      accuracies(single[0][1]['logits'], sets.test, forget),
      strict=True,
    )
  }
  stacked = task_vectors.stack(taus)
  angles = np.asarray(task_vectors.cosine_matrix(stacked))
  off = angles[~np.eye(len(taus), dtype=bool)]
  record = {
    'forget_classes': forget.tolist(),
    'untouched': untouched,
    'norms': [float(task_vectors.norm(tau)) for tau in taus],
    'cosine': float(off.mean()),
    'single': [rows['probabilities'] for rows, *_ in single],
    'by_q': {},
  }
  for q in SIZES:
    if q <= len(taus):
      record['by_q'][str(q)] = spanned(
        flags, model, base, taus[:q], look, sets, key, timed
      )
  return record


def spanned(flags, model, base, taus, look, sets, key, timed):
  """Every method on the first q vectors of a seed."""
  q = len(taus)
  one = simplex.TaskSimplex(base, task_vectors.stack(taus))
  alone = lambda tau: simplex.TaskSimplex(base, task_vectors.stack([tau]))
  plain = estimate(model, 'centroid', 1)
  rows, outputs, strength = look(
    plain, alone(task_vectors.uniform(taus)), also=None
  )
  found, seen = {'centroid': rows}, {'centroid': outputs}
  for name, merge in (
    ('negmerge', task_vectors.negmerge),
    ('ties', task_vectors.ties),
    ('magmax', task_vectors.magmax),
  ):
    found[name] = look(plain, alone(merge(taus)), also=strength)[0]
  seconds = {}
  for name in ENSEMBLES:
    if name == 'taylor2' and q > WIDEST_TAYLOR:
      continue
    run = estimate(model, name, q)
    found[name], seen[name], _ = look(run, one, also=strength)
    if timed:
      seconds[name] = seconds_of(run, one, sets.test_image, key)
  if timed:
    seconds['forward'] = seconds_of(plain, alone(taus[0]), sets.test_image, key)
  n = 8 if flags.smoke else 128
  pieces = [
    reference(model, n)(one.replace(scale=strength), piece, key)
    for piece in sets.test_image
  ]
  fine, error, spread = jax.tree.map(
    lambda *part: np.concatenate(part)[: len(sets.test.label)], *pieces
  )
  return {
    'methods': found,
    'strength': strength,
    'errors': {
      name: {s: rms(out[s] - fine[s]) for s in SPACES}
      for name, out in seen.items()
    },
    'reference_error': {s: rms(error[s]) for s in SPACES},
    'variance': float(spread['probabilities'].sum(-1).mean()),
    'deviation_of_logits': float(np.sqrt(spread['logits'].mean())),
    'kept_by_negmerge': kept_share(task_vectors.negmerge(taus), taus[0]),
    'seconds': seconds,
  }


def kept_share(merged, tau) -> float:
  """The share of the entries that took part which a merge keeps."""
  count = lambda t: sum(int((x != 0).sum()) for x in jax.tree.leaves(t))
  return count(merged) / max(count(tau), 1)
