"""One seed of `simplex_unlearning.py`: every method, judged."""

import functools
import time

import jax
import numpy as np
from simplex_unlearning_world import vectors

from cmu_jax import rng, simplex
from cmu_jax import task_vectors as tv
from cmu_jax.types import Variables

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
LAMBDAS = np.linspace(0, 1, 21)


@functools.lru_cache(maxsize=4)
def network(model):
  """(params, image) -> logits and probabilities, for one pass over both."""

  def run(params, image):
    logits = model.apply(Variables(params, {}), image)
    chances = jax.nn.softmax(logits, axis=-1)
    return {'logits': logits, 'probabilities': chances}

  return run


@functools.lru_cache(maxsize=64)
def curve(model, name, q):
  """(simplex, lambdas, image, key) -> outputs of each lambda, compiled."""
  options = dict(ENSEMBLES.get(name, {'method': 'centroid'}))
  if name == 'sampled':
    options['n'] = q

  def at(one, image, key, scale):
    return simplex.simplex_ensemble(
      network(model), one.replace(scale=scale), image, key=key, **options
    ).value

  def run(one, lambdas, image, key):
    return jax.lax.map(functools.partial(at, one, image, key), lambdas)

  return jax.jit(run)


def accuracies(outputs, batch, forget):
  """Accuracy on the forgotten classes and on the others, of each lambda."""
  label = np.asarray(batch.label)
  right = np.asarray(outputs).argmax(-1) == label
  gone = np.isin(label, forget)
  return right[:, gone].mean(1), right[:, ~gone].mean(1)


def judged(run, one, sets, forget, key, also):
  """Lambda by validation alone, then the test images, for each space.

  Validation and test images go through the network together; nothing of the
  test images is looked at but the outputs at the strength that was chosen.

  Returns:
    Numbers by space, and the test outputs at the strength `also` (None: at the
    one that was chosen for probabilities), and that strength.
  """
  val, test = sets.val, sets.test
  outputs = jax.device_get(run(one, LAMBDAS, sets.image, key))
  rows, seen = {}, {}
  for space in SPACES:
    held, rest = np.split(outputs[space], [len(val.label)], axis=1)
    rule = tv.choose(LAMBDAS, *accuracies(held, val, forget))
    at = rule.position or 0
    also = rule.chosen if also is None else also
    lost, kept = accuracies(rest[at : at + 1], test, forget)
    rows[space] = {
      'lambda': rule.chosen,
      'feasible': rule.feasible,
      'validation_forget': float(rule.forget[at]),
      'validation_control': float(rule.control[at]),
      'forget': float(lost[0]),
      'control': float(kept[0]),
    }
    seen[space] = rest[int(np.abs(LAMBDAS - also).argmin())]
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
  """Of one strength, in a second run of all of them: nothing is compiled."""
  began = time.perf_counter()
  jax.block_until_ready(run(one, LAMBDAS, image, key))
  return (time.perf_counter() - began) / len(LAMBDAS)


def cell(flags, place, seed, timed):
  """Everything that one seed says."""
  model = place[1]
  base, taus, sets, forget = vectors(flags, place, seed)
  key = rng.named(seed, 'draws')
  look = functools.partial(judged, sets=sets, forget=forget, key=key)
  alone = lambda tau: simplex.TaskSimplex(base, tv.stack([tau]))
  plain = curve(model, 'centroid', 1)
  single = [look(plain, alone(tau), also=0.0) for tau in taus]
  untouched = {
    name: float(x[0])
    for name, x in zip(
      ('forget', 'control'),
      accuracies(single[0][1]['logits'][None], sets.test, forget),
      strict=True,
    )
  }
  stacked = tv.stack(taus)
  angles = np.asarray(tv.cosine_matrix(stacked))
  off = angles[~np.eye(len(taus), dtype=bool)]
  record = {
    'forget_classes': forget.tolist(),
    'untouched': untouched,
    'norms': [float(tv.norm(tau)) for tau in taus],
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
  one = simplex.TaskSimplex(base, tv.stack(taus))
  alone = lambda tau: simplex.TaskSimplex(base, tv.stack([tau]))
  plain = curve(model, 'centroid', 1)
  rows, outputs, strength = look(plain, alone(tv.uniform(taus)), also=None)
  found, seen = {'centroid': rows}, {'centroid': outputs}
  for name, merge in (
    ('negmerge', tv.negmerge),
    ('ties', tv.ties),
    ('magmax', tv.magmax),
  ):
    found[name] = look(plain, alone(merge(taus)), also=strength)[0]
  seconds = {}
  for name in ENSEMBLES:
    if name == 'taylor2' and q > WIDEST_TAYLOR:
      continue
    run = curve(model, name, q)
    found[name], seen[name], _ = look(run, one, also=strength)
    if timed:
      seconds[name] = seconds_of(run, one, sets.image, key)
  if timed:
    seconds['forward'] = seconds_of(plain, alone(taus[0]), sets.image, key)
  n = 8 if flags.smoke else 128
  fine, error, spread = reference(model, n)(
    one.replace(scale=strength), sets.image[len(sets.val.label) :], key
  )
  return {
    'methods': found,
    'strength': strength,
    'errors': {
      name: {s: rms(out[s] - np.asarray(fine[s])) for s in SPACES}
      for name, out in seen.items()
    },
    'reference_error': {s: rms(error[s]) for s in SPACES},
    'variance': float(np.asarray(spread['probabilities']).sum(-1).mean()),
    'deviation_of_logits': float(np.sqrt(np.asarray(spread['logits']).mean())),
    'kept_by_negmerge': kept_share(tv.negmerge(taus), taus[0]),
    'seconds': seconds,
  }


def kept_share(merged, tau) -> float:
  """The share of the entries that took part which a merge keeps."""
  count = lambda t: sum(int((x != 0).sum()) for x in jax.tree.leaves(t))
  return count(merged) / max(count(tau), 1)
