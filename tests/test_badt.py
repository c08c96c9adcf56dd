"""Bad teaching: which teacher a sample has, its limits, its reductions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import unlearning_case as case
from close import assert_close
from states import same

from cmu_jax import networks
from cmu_jax.core import errors, jit
from cmu_jax.core.types import Network, Training, Variables
from cmu_jax.methods import teachers
from cmu_jax.training import descent

GIVEN = case.given()


@pytest.fixture(autouse=True)
def _quickly():
  with jit.skip_optimizations(True):
    yield


def _divergence(params, start, bad):
  """Over all of S_tr, sample by sample."""
  total = []
  for part, teacher in ((GIVEN.retain, start), (GIVEN.forget, bad)):
    image, _ = case.seen(part)
    q = jax.nn.softmax(case.logits(teacher, image))
    p = jax.nn.softmax(case.logits(params, image))
    total.append((q * (jnp.log(q) - jnp.log(p))).sum(-1))
  return jnp.concatenate(total).mean()


@pytest.mark.parametrize('reduction', teachers.REDUCTIONS)
def test_a_step_follows_the_teacher_of_each_sample(reduction):
  method, bad, found, info = case.solved(
    teachers.badt,
    None,
    GIVEN,
    steps=1,
    reduction=reduction,
    batch=2 * case.COUNT,
  )
  start = case.start()
  share = {'elementmean': 1 / case.CLASSES, 'batchmean': 1.0}[reduction]
  loss = lambda params: share * _divergence(params, start, bad.params)
  assert_close(found.params, case.descended([loss], start), rtol=1e-5)
  assert info == {'gradient_evaluations': 2 * case.COUNT}
  assert method.needs == ('retain', 'forget') and method.grid == ({},)


def test_the_bad_teacher_is_new_and_has_new_statistics():
  shape = (8, 8, 1)
  model, variables = case.network('convnet', shape)
  problem = case.given(shape)
  method = teachers.badt(
    Network(model, case.PIXELS),
    training=Training(optimizer=optax.sgd(0.1), steps=1, batch_size=2),
  )
  bad = method.prepare(case.KEY, variables, problem)
  same(bad, method.prepare(case.KEY, variables, problem))
  for name, leaf in jax.tree_util.tree_leaves_with_path(bad.batch_stats):
    wanted = 1.0 if name[-1].key == 'var' else 0.0
    np.testing.assert_array_equal(leaf, np.full(leaf.shape, wanted))
  other = method.prepare(jax.random.key(9), variables, problem)
  kernel = lambda found: found.params['head']['kernel']
  assert not np.array_equal(kernel(bad), kernel(other))
  assert not np.array_equal(kernel(bad), kernel(variables))


def test_without_identified_samples_the_original_has_no_loss():
  """In evaluation mode, where its statistics are those of its teacher."""
  shape = (8, 8, 1)
  model, variables = case.network('convnet', shape)
  everything = networks.freeze_norms(model, ('body', 'head'))
  image, label = case.seen(case.given(shape).retain)
  objective = teachers.bad_teacher_objective(everything, 'batchmean')

  def loss(params, identified):
    draw = descent.StreamBatch(image, label, jnp.full(label.shape, identified))
    now = Variables(params, variables.batch_stats)
    nothing = jax.tree.map(jnp.zeros_like, variables)
    context = variables, nothing
    return objective(now, {'train': draw}, context, {}, 0.0)[0]

  slopes = jax.jit(jax.value_and_grad(loss))
  value, slope = slopes(variables.params, False)
  assert abs(float(value)) < 1e-6
  assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(slope)) < 1e-5
  assert float(slopes(variables.params, True)[0]) > 1e-3


def test_an_unknown_reduction_is_named():
  with pytest.raises(errors.UserError, match="'batchmeen': did you mean"):
    case.solved(teachers.badt, None, GIVEN, reduction='batchmeen')
