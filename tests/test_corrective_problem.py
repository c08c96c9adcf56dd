"""Problems: what is manipulated, identified, handed out, and reported."""

import itertools

import hypothesis
import jax.numpy as jnp
import numpy as np
import pytest
import small_sweep
from hypothesis import strategies as st

from cmu_jax.core import errors
from cmu_jax.core.types import Batch
from cmu_jax.data import corruption
from cmu_jax.studies.corrective import problem as problems
from cmu_jax.studies.corrective import world
from cmu_jax.studies.corrective.problem import Problem
from cmu_jax.studies.engine import binding

FRACTIONS = (0.1, 0.25, 0.5, 0.8, 1.0)


def _numbered(size, manipulated):
  """Every image is its own number; the last ones are manipulated."""
  image = jnp.arange(size, dtype=jnp.uint8)[:, None, None, None]
  rank = np.full(size, -1)
  rank[size - manipulated :] = np.random.default_rng(0).permutation(manipulated)
  batch = Batch(image, jnp.arange(size) % 3, jnp.asarray(rank >= 0))
  return Problem(batch, np.arange(size) % 3, rank, None, None, batch)


def _rows(samples):
  return np.asarray(samples.batch.image).reshape(-1)


@hypothesis.given(
  size=st.sampled_from((9, 40)),
  share=st.sampled_from((0.2, 0.5, 0.9)),
  fraction=st.sampled_from(FRACTIONS),
)
@hypothesis.settings(max_examples=30, deadline=None)
def test_retain_and_forget_are_parts_and_nothing_else(size, share, fraction):
  posed = _numbered(size, max(1, int(share * size)))
  hypothesis.assume(
    round(fraction * problems.find_manipulated(posed).sum() + 1e-9) >= 1
  )
  known = np.flatnonzero(problems.find_identified(posed, fraction))
  rest = np.setdiff1d(np.arange(size), known)
  given = problems.give(posed, fraction, ('retain', 'forget'))
  for part, want in ((given.retain, rest), (given.forget, known)):
    valid = np.asarray(part.valid)
    np.testing.assert_array_equal(np.sort(_rows(part)[valid]), want)
    # Neither here nor in the rows that do not count is there anything else.
    assert set(_rows(part)) == set(want)
  assert bool(given.forget.identified.all())
  assert not bool(given.retain.identified.any())


@pytest.mark.parametrize('name', problems.NEEDS)
def test_what_is_not_declared_is_not_there(name):
  posed = _numbered(20, 8)._replace(proxy='proxy', clean_proxy='clean')
  given = problems.give(posed, 0.5, (name,))
  assert [n for n in problems.NEEDS if getattr(given, n) is not None] == [name]


def test_shapes_do_not_tell_how_many_are_identified():
  posed = _numbered(20, 8)
  shapes = {
    tuple(
      x.shape for x in (g.retain.valid, g.forget.valid, g.forget.batch.image)
    )
    for f in FRACTIONS[1:]
    for g in [problems.give(posed, f, ('retain', 'forget'))]
  }
  assert len(shapes) == 1


def test_larger_fractions_contain_smaller_ones():
  posed = _numbered(50, 20)
  sets = [problems.find_identified(posed, f) for f in FRACTIONS]
  assert [int(s.sum()) for s in sets] == [2, 5, 10, 16, 20]
  assert all((a <= b).all() for a, b in itertools.pairwise(sets))


@pytest.mark.parametrize('fraction', [0.0, -0.1, 1.1, 0.01])
def test_a_fraction_that_cannot_be_is_refused(fraction):
  with pytest.raises(errors.UserError, match='identified fraction'):
    problems.give(_numbered(20, 8), fraction, ('retain',))


def test_an_unknown_or_absent_part_is_refused():
  with pytest.raises(errors.UserError, match='forget'):
    problems.give(_numbered(20, 8), 0.5, ('forgot',))
  with pytest.raises(errors.UserError, match='proxy_fraction'):
    problems.give(_numbered(20, 8), 0.5, ('proxy',))


def _scene(kind, seed=0, **changes):
  config = small_sweep.config(**changes)
  dataset = binding.load(config).dataset
  one = world.bind_world(config, dataset, kind)
  return one, world.draw_scene(config, one, config[kind].sizes[0], seed)


def test_poison_is_stamped_and_labelled_as_the_target():
  one, scene = _scene('poison')
  where = problems.find_manipulated(scene.problem)
  assert where.sum() == 20
  np.testing.assert_array_equal(
    np.asarray(scene.problem.train.has_trigger), where
  )
  label = np.asarray(scene.problem.train.label)
  assert (label[where] == one.target).all()
  np.testing.assert_array_equal(label[~where], scene.problem.truth[~where])


@pytest.mark.parametrize('choice', ['random', 'first'])
def test_interclass_exchanges_half_of_each(choice):
  one, scene = _scene('interclass', interclass__choice=choice)
  problem = scene.problem
  where = problems.find_manipulated(problem)
  truth, label = problem.truth[where], np.asarray(problem.train.label)[where]
  assert [int((truth == c).sum()) for c in one.pair] == [15, 15]
  np.testing.assert_array_equal(label, sum(one.pair) - truth)
  if choice == 'first':
    for c in one.pair:
      np.testing.assert_array_equal(
        np.flatnonzero(where & (problem.truth == c)),
        np.flatnonzero(problem.truth == c)[:15],
      )


def test_seeds_differ_and_one_seed_does_not():
  ranks = [_scene('poison', seed)[1].problem.rank for seed in (0, 0, 1)]
  np.testing.assert_array_equal(ranks[0], ranks[1])
  assert (ranks[0] != ranks[2]).any()


def test_the_published_sets_are_those_of_the_legacy_generator():
  _, scene = _scene('poison', published_indices=True)
  problem = scene.problem
  listed = np.sort(corruption.legacy_indices(0, problem.truth.size, 20))
  np.testing.assert_array_equal(
    np.flatnonzero(problems.find_manipulated(problem)), listed
  )
  first = np.random.RandomState(0).permutation(20)[:2]
  np.testing.assert_array_equal(
    np.flatnonzero(problems.find_identified(problem, 0.1)),
    np.sort(listed[first]),
  )


@pytest.mark.parametrize(
  ('validation', 'trained', 'held', 'reported'),
  [
    ('train_fifth', 320, 80, 100),
    ('test_half', 400, 50, 50),
    ('test', 400, 100, 100),
  ],
)
def test_selection_and_report_see_different_images(
  validation, trained, held, reported
):
  _, scene = _scene('poison', validation=validation)
  sizes = [
    batch.label.shape[0]
    for batch in (
      scene.problem.train,
      scene.problem.validation,
      scene.reported,
    )
  ]
  np.testing.assert_allclose(sizes, (trained, held, reported), atol=8)
  images = [
    {image.tobytes() for image in np.asarray(batch.image)}
    for batch in (scene.problem.validation, scene.reported)
  ]
  assert (images[0] == images[1]) == (validation == 'test')


def test_the_proxy_is_held_out_and_carries_the_same_corruption():
  one, scene = _scene('interclass', proxy_fraction=0.1)
  problem = scene.problem
  kept = np.asarray(problem.proxy.positions[0])
  truth = np.asarray(problem.clean_proxy.label)[kept]
  assert set(truth) == set(one.pair)
  np.testing.assert_array_equal(
    np.asarray(problem.proxy.label[0]), sum(one.pair) - truth
  )
  assert problem.truth.size < 320


@pytest.mark.parametrize(
  ('kind', 'changes', 'said'),
  [
    ('poison', {'poison__sizes': (5000,)}, 'poison.sizes'),
    ('interclass', {'interclass__sizes': (400,)}, 'interclass.sizes'),
    ('poison', {'poison__target': 10}, 'poison.target'),
    ('interclass', {'interclass__pair': '3:30'}, '30'),
  ],
)
def test_what_the_data_do_not_have_is_refused(kind, changes, said):
  with pytest.raises(errors.UserError, match=said):
    _scene(kind, **changes)
