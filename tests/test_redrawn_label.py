"""Random labels that are drawn at every access, on the union."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import unlearning_case as case
from states import same

from cmu_jax.core import jit
from cmu_jax.core.types import MethodInputs, Network, Training
from cmu_jax.methods import relabelling, union_training
from cmu_jax.training import descent, metrics

GIVEN = case.given()


@pytest.fixture(autouse=True)
def _quickly():
  with jit.skip_optimizations(True):
    yield


@functools.cache
def seen():
  """Labels and shares of D_F that each of four steps trained with."""
  model, start = case.network()
  found = []

  def update(variables, image):
    logits, stats = model.update(variables, image)
    return logits, stats

  spied = model._replace(update=update)
  method = union_training.redrawn_label(
    Network(spied, case.PIXELS), Training(optax.sgd(0.0), 4, 12)
  )
  whole, mask = method.prepare(case.KEY, start, GIVEN)
  recipe = union_training._redrawn_recipe(
    Network(spied, case.PIXELS), Training(optax.sgd(0.0), 4, 12), False
  )
  context = union_training._RedrawContext(jax.random.key(5), None)
  rows = np.flatnonzero(np.asarray(whole.valid))
  draw = descent.StreamBatch(
    jnp.asarray(whole.batch.image[rows], jnp.float32) / 255,
    whole.batch.label[rows],
    whole.identified[rows],
  )
  for step in range(4):
    loss, _ = recipe.phases[0].objective(
      start, {'union': draw}, context, {}, jnp.float32(step) / 4
    )
    key = jax.random.fold_in(jax.random.key(5), step)
    other = relabelling.draw_wrong_labels(key, draw.label, case.CLASSES)
    label = jnp.where(draw.identified, other, draw.label)
    logits = model.update(start, draw.image)[0]
    found.append((loss, metrics.cross_entropy(logits, label).mean(), label))
  return draw, found, mask


def test_every_step_has_labels_of_its_own():
  draw, found, mask = seen()
  assert mask is None
  known = np.asarray(draw.identified)
  assert known.sum() == case.COUNT and len(known) == 2 * case.COUNT
  for loss, by_hand, label in found:
    np.testing.assert_allclose(loss, by_hand, rtol=1e-6)
    assert (np.asarray(label)[known] != np.asarray(draw.label)[known]).all()
    assert (np.asarray(label)[~known] == np.asarray(draw.label)[~known]).all()
  assert len({tuple(np.asarray(label)[known]) for _, _, label in found}) > 1


@pytest.mark.parametrize('retain', [True, False])
def test_masked_weights_are_the_same_bits_under_momentum_and_decay(retain):
  model, start = case.network()
  optimizer = optax.chain(
    optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9)
  )
  method = union_training.redrawn_label(
    Network(model, case.PIXELS),
    Training(optimizer, 5, 4),
    share=0.3,
    retain=retain,
  )
  given = GIVEN if retain else MethodInputs(forget=GIVEN.forget)
  prepared = method.prepare(case.KEY, start, given)
  found, info = method.solve(case.KEY, start, given, prepared, {})
  mask = jax.tree.leaves(prepared[1])
  old, new = jax.tree.leaves(start.params), jax.tree.leaves(found.params)
  share = sum(int(m.sum()) for m in mask) / sum(m.size for m in mask)
  assert abs(share - 0.3) < 0.02
  for m, a, b in zip(mask, old, new, strict=True):
    kept = ~np.asarray(m)
    same(np.asarray(a)[kept], np.asarray(b)[kept])
    assert (np.asarray(a)[~kept] != np.asarray(b)[~kept]).all()
  assert info['gradient_evaluations'] == 5 * 4 + case.COUNT
  assert method.needs == (('retain', 'forget') if retain else ('forget',))
