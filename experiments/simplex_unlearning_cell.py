"""A seed of `simplex_unlearning.py`: all methods with their accuracies."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
from simplex_unlearning_world import prepare_seed

from cmu_jax.core import rng
from cmu_jax.core.types import Variables
from cmu_jax.methods import simplex
from cmu_jax.methods import task_vectors as tv

SIZES = (2, 3, 5, 8)
MERGES = {'negmerge': tv.negmerge, 'ties': tv.ties, 'magmax': tv.magmax}
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


# Cached, because the programs of a simplex are keyed by this function.
@functools.lru_cache(maxsize=4)
def network(model):
  """(params, image) -> logits and probabilities, for one pass over both."""

  def run(params, image):
    logits = model.apply(Variables(params, {}), image)
    probabilities = jax.nn.softmax(logits, axis=-1)
    return {'logits': logits, 'probabilities': probabilities}

  return run


@functools.lru_cache(maxsize=64)
def estimator(model, name, q):
  """(simplex, lambda, piece of images, key) -> outputs, compiled."""
  options = dict(ENSEMBLES.get(name, {'method': 'centroid'}))
  if name == 'sampled':
    options['n'] = q

  def run(task_simplex, scale, image, key):
    return simplex.simplex_ensemble(
      network(model),
      task_simplex.replace(scale=scale),
      image,
      key=key,
      **options,
    ).value

  return jax.jit(run)


def compute_outputs(run, task_simplex, scale, image, count, key):
  """Computes the outputs of `count` images in pieces of the same size."""
  outputs = jax.device_get(
    [run(task_simplex, jnp.float32(scale), piece, key) for piece in image]
  )
  return {
    space: np.concatenate([piece[space] for piece in outputs])[:count]
    for space in SPACES
  }


def accuracies(logits, batch, forget):
  """Computes the accuracy on the forgotten classes and on the others."""
  label = np.asarray(batch.label)
  correct = np.asarray(logits).argmax(-1) == label
  in_forget = np.isin(label, forget)
  return correct[in_forget].mean(), correct[~in_forget].mean()


def evaluate(run, task_simplex, sets, forget, key, strength):
  """Chooses lambda by validation, then evaluates on the test images.

  Returns:
    Numbers by space; the test outputs at `strength` (None: at the choice for
    probabilities) by space; and that strength.
  """
  val, test = sets.val, sets.test
  sweep = [
    compute_outputs(
      run, task_simplex, scale, sets.val_image, len(val.label), key
    )
    for scale in LAMBDAS
  ]
  test_outputs = functools.cache(
    lambda scale: compute_outputs(
      run, task_simplex, scale, sets.test_image, len(test.label), key
    )
  )
  rows, outputs = {}, {}
  for space in SPACES:
    columns = zip(
      *(accuracies(out[space], val, forget) for out in sweep), strict=True
    )
    choice = tv.choose(LAMBDAS, *columns)
    position = choice.position or 0
    strength = choice.strength if strength is None else strength
    forget_accuracy, control_accuracy = accuracies(
      test_outputs(choice.strength)[space], test, forget
    )
    rows[space] = {
      'lambda': choice.strength,
      'feasible': choice.feasible,
      'validation_forget': float(choice.forget[position]),
      'validation_control': float(choice.control[position]),
      'forget': float(forget_accuracy),
      'control': float(control_accuracy),
    }
    outputs[space] = test_outputs(strength)[space]
  return rows, outputs, strength


@functools.lru_cache(maxsize=8)
def reference(model, n):
  """(simplex, image, key) -> a fine mean, its error, the networks' variance."""

  def run(task_simplex, image, key):
    fn = network(model)
    fine = simplex.simplex_ensemble(
      fn, task_simplex, image, method='mc_cv', key=key, n=n
    )
    variance = simplex.simplex_ensemble(
      fn, task_simplex, image, method='taylor2', directions='helmert'
    ).variance
    return fine.value, fine.error, variance

  return jax.jit(run)


def rms(x) -> float:
  """Computes the root mean square of an array."""
  return float(np.sqrt(np.mean(np.square(np.asarray(x)))))


def seconds_of(run, task_simplex, image, key) -> float:
  """Times a compiled estimate of a piece; the mean of five runs."""
  began = time.perf_counter()
  for _ in range(5):
    jax.block_until_ready(run(task_simplex, jnp.float32(0.5), image[0], key))
  return (time.perf_counter() - began) / 5


def single(base, tau):
  """Returns the simplex of a single vector."""
  return simplex.TaskSimplex(base, tv.stack([tau]))


def measure(flags, world, seed, timed):
  """Returns the record of a seed."""
  model = world.model
  base, taus, sets, forget = prepare_seed(flags, world, seed)
  key = rng.fold_in(seed, 'draws')
  look = functools.partial(evaluate, sets=sets, forget=forget, key=key)
  plain = estimator(model, 'centroid', 1)
  singles = [look(plain, single(base, tau), strength=0.0) for tau in taus]
  # The outputs at strength 0 are those of the untouched network.
  untouched = accuracies(singles[0][1]['logits'], sets.test, forget)
  angles = np.asarray(tv.cosine_matrix(tv.stack(taus)))
  return {
    'forget_classes': forget.tolist(),
    'untouched': dict(
      zip(('forget', 'control'), map(float, untouched), strict=True)
    ),
    'norms': [float(tv.norm(tau)) for tau in taus],
    'cosine': float(angles[~np.eye(len(taus), dtype=bool)].mean()),
    'single': [rows['probabilities'] for rows, *_ in singles],
    'by_q': {
      str(q): measure_simplex(
        flags, model, base, taus[:q], look, sets, key, timed
      )
      for q in SIZES
      if q <= len(taus)
    },
  }


def measure_simplex(flags, model, base, taus, look, sets, key, timed):
  """Evaluates every method on the first q vectors of a seed."""
  q = len(taus)
  task_simplex = simplex.TaskSimplex(base, tv.stack(taus))
  plain = estimator(model, 'centroid', 1)
  soup = single(base, tv.uniform(taus))
  methods, outputs, seconds = {}, {}, {}
  methods['centroid'], outputs['centroid'], strength = look(
    plain, soup, strength=None
  )
  for name, merge in MERGES.items():
    merged = single(base, merge(taus))
    methods[name] = look(plain, merged, strength=strength)[0]
  for name in ENSEMBLES:
    if name == 'taylor2' and q > WIDEST_TAYLOR:
      continue
    run = estimator(model, name, q)
    methods[name], outputs[name], _ = look(run, task_simplex, strength=strength)
    if timed:
      seconds[name] = seconds_of(run, task_simplex, sets.test_image, key)
  if timed:
    seconds['forward'] = seconds_of(
      plain, single(base, taus[0]), sets.test_image, key
    )
  fine, error, variance = compute_reference(
    flags, model, task_simplex.replace(scale=strength), sets, key
  )
  return {
    'methods': methods,
    'strength': strength,
    'errors': {
      name: {s: rms(out[s] - fine[s]) for s in SPACES}
      for name, out in outputs.items()
    },
    'reference_error': {s: rms(error[s]) for s in SPACES},
    'variance': float(variance['probabilities'].sum(-1).mean()),
    'deviation_of_logits': float(np.sqrt(variance['logits'].mean())),
    'kept_by_negmerge': nonzero_share(tv.negmerge(taus), taus[0]),
    'seconds': seconds,
  }


def compute_reference(flags, model, task_simplex, sets, key):
  """Computes fine means, errors and variances of all test images."""
  run = reference(model, 8 if flags.smoke else 128)
  pieces = [run(task_simplex, piece, key) for piece in sets.test_image]
  return jax.tree.map(
    lambda *part: np.concatenate(part)[: len(sets.test.label)], *pieces
  )


def nonzero_share(merged, tau) -> float:
  """Computes the share of a vector's nonzero entries that a merge keeps."""
  count = lambda t: sum(int((x != 0).sum()) for x in jax.tree.leaves(t))
  return count(merged) / max(count(tau), 1)
