"""Task vectors: algebra, merges, several ways to fine-tune."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from close import assert_close

from cmu_jax import networks
from cmu_jax.core import errors
from cmu_jax.core.types import Batch
from cmu_jax.data import input_step
from cmu_jax.methods import task_vectors


def vectors(count, seed=0, size=7):
  """Vectors on the host: two layers and a counter."""
  rng = np.random.default_rng(seed)
  return [
    {
      'body': {'kernel': rng.normal(size=(size, 3)).astype(np.float32)},
      'head': rng.normal(size=size).astype(np.float32),
      'steps': np.int32(4),
    }
    for _ in range(count)
  ]


def flat(tau):
  return np.concatenate([tau['body']['kernel'].ravel(), tau['head']])


def test_a_vector_takes_the_trainable_floats_only():
  start, end = vectors(2)
  tau = task_vectors.task_vector(
    start, end, lambda path, leaf: path[0] == 'head'
  )
  assert_close(tau['head'], end['head'] - start['head'])
  assert not tau['body']['kernel'].any() and tau['steps'] == 4
  whole = task_vectors.task_vector(start, end)
  assert_close(task_vectors.edit(start, whole, -1.0), end)
  assert_close(task_vectors.edit(end, whole, 1.0), start)
  half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), start['body'])
  assert task_vectors.edit(half, whole['body'], -0.5)['kernel'].dtype == (
    jnp.bfloat16
  )


def test_products_norms_and_cosines_are_those_of_flat_vectors():
  taus = vectors(3)
  rows = np.stack([flat(tau) for tau in taus])
  stacked = task_vectors.stack(taus)
  products = rows @ rows.T
  sizes = np.sqrt(np.diag(products))
  assert_close(task_vectors.norm(taus[2]), sizes[2])
  assert_close(task_vectors.gram(stacked), products)
  found = jax.jit(task_vectors.cosine_matrix)(stacked)
  assert_close(found, products / sizes[:, None] / sizes[None, :])
  nothing = jax.tree.map(np.zeros_like, taus[0])
  angles = task_vectors.cosine_matrix(task_vectors.stack([taus[0], nothing]))
  assert_close(angles, np.array([[1.0, 0.0], [0.0, 0.0]]))


@pytest.mark.parametrize('lives', [np.asarray, jnp.asarray])
def test_the_largest_entries_of_all_leaves_stay(lives):
  (tau,) = vectors(1)
  tau = jax.tree.map(lives, tau)
  found = task_vectors.sparsify(tau, 0.25)
  sizes = np.abs(flat(tau))
  kept = flat(found) != 0
  assert kept.sum() == 7 == int(np.ceil(0.25 * sizes.size))
  assert sizes[kept].min() > sizes[~kept].max()
  assert isinstance(found['head'], type(tau['head'])) and found['steps'] == 4
  assert_close(task_vectors.sparsify(tau, 1.0), tau)
  with pytest.raises(errors.UserError, match='keep 0'):
    task_vectors.sparsify(tau, 0.0)


def hand(*rows):
  return [{'w': np.array(row, np.float32)} for row in rows]


def test_negmerge_keeps_what_all_agree_on():
  taus = hand([1, -1, 2, 0, 3], [3, -3, -2, 5, 0], [2, -2, 2, 5, 3])
  assert task_vectors.negmerge(taus)['w'].tolist() == [2, -2, 0, 0, 0]


def test_ties_elects_a_sign_by_magnitude():
  taus = hand([4, 1, 0, -3], [-1, 2, 0, 3], [2, -1, 0, 0])
  assert task_vectors.ties(taus, keep=1.0)['w'].tolist() == [3, 1.5, 0, 0]
  # Of each vector the two largest; of the first one 4 and -3.
  assert task_vectors.ties(taus, keep=0.5)['w'].tolist() == [3, 2, 0, 0]


def test_magmax_takes_the_largest_and_breaks_ties_upwards():
  taus = hand([1, -4, 2], [-3, 2, -2])
  assert task_vectors.magmax(taus)['w'].tolist() == [-3, -4, 2]
  assert task_vectors.magmax(taus[::-1])['w'].tolist() == [-3, -4, 2]


MERGES = {
  'uniform': task_vectors.uniform,
  'negmerge': task_vectors.negmerge,
  'ties': lambda taus, count=None: task_vectors.ties(taus, count, 0.5),
  'magmax': task_vectors.magmax,
}


@pytest.mark.parametrize('name', MERGES)
def test_merges_pass_once_over_any_stream_in_any_order(name):
  merge, taus = MERGES[name], vectors(5)
  expected = merge(taus)
  assert isinstance(expected['head'], np.ndarray) and expected['steps'] == 4
  seen = []

  def read(i):
    seen.append(i)
    return taus[i]

  assert_close(merge(read, 5), expected)
  assert seen == list(range(5))
  assert_close(merge(iter(taus[::-1])), expected)
  on_device = merge([jax.tree.map(jnp.asarray, tau) for tau in taus])
  assert isinstance(on_device['head'], jax.Array)
  assert_close(on_device, expected)


def test_one_vector_is_its_own_merge_and_a_stack_agrees():
  taus = vectors(3)
  for merge in (
    task_vectors.uniform,
    task_vectors.negmerge,
    task_vectors.magmax,
  ):
    assert_close(merge(taus[:1]), taus[0])
  assert_close(task_vectors.ties(taus[:1], keep=1.0), taus[0])
  rows = np.stack([flat(tau) for tau in taus])
  agree = np.abs(np.sign(rows).sum(0)) == 3
  assert_close(flat(task_vectors.negmerge(taus)), rows.mean(0) * agree)
  assert_close(flat(task_vectors.uniform(taus)), rows.mean(0))
  largest = rows[np.abs(rows).argmax(0), np.arange(rows.shape[1])]
  assert_close(flat(task_vectors.magmax(taus)), largest)


@pytest.mark.parametrize('count', [2, 3, 5, 8])
def test_noise_agrees_as_often_as_coins_do(count):
  rng = np.random.default_rng(count)
  taus = ({'w': rng.normal(size=20000)} for _ in range(count))
  kept = float((task_vectors.negmerge(taus)['w'] != 0).mean())
  share = 2.0 ** (1 - count)
  assert abs(kept - share) < 4 * np.sqrt(share * (1 - share) / 20000)


def test_unusable_vectors_are_named():
  taus = vectors(2)
  for wrong, message in (
    (taus[0], 'not one tree'),
    (lambda i: taus[i], 'give their count'),
    ([], 'no task vectors'),
    ([taus[0], vectors(1, size=6)[0]], 'has shape'),
    ([taus[0], {'head': taus[0]['head']}], 'differ in structure'),
  ):
    with pytest.raises(errors.UserError, match=message):
      task_vectors.uniform(wrong)
  with pytest.raises(errors.UserError, match="at 'body/kernel'"):
    task_vectors.task_vector(taus[0], vectors(1, size=6)[0])
  with pytest.raises(errors.UserError, match='give one or more'):
    task_vectors.stack([])


def test_vectors_of_several_ways_are_apart_and_spare_the_head():
  pixels = input_step.make((0.5,), (0.5,))
  model = networks.make('fc', 3, (2, 2, 1), width=4)
  image = jnp.asarray(np.arange(24).reshape(6, 2, 2, 1), jnp.uint8)
  batch = Batch(image, jnp.array([0, 0, 0, 1, 1, 1], jnp.int32))
  start = model.init(jax.random.key(0), pixels.eval(image))
  one = task_vectors.FineTuneConfig(lr=1e-2, epochs=2, seed=1)
  ways = [one, one, one._replace(label_smoothing=0.3)]
  run = lambda ways: task_vectors.diversify(
    model, start, batch, ways, {'none': pixels}, batch_size=2, frozen=('head',)
  )
  taus = run(ways)
  assert_close(taus[0], taus[1])
  cosines = task_vectors.cosine_matrix(task_vectors.stack(taus))
  assert cosines[0, 1] > 0.9999 > cosines[0, 2] > 0
  heads = jax.tree.leaves([tau['head'] for tau in taus])
  assert not any(leaf.any() for leaf in heads)
  with pytest.raises(errors.UserError, match="augmentation 'crops'"):
    run([one._replace(augment='crops')])
