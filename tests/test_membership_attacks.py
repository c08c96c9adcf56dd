"""Attacks on forgotten points: by their definition, fair, side by side."""

import jax
import numpy as np
import pytest

from cmu_jax import audits
from cmu_jax.audits import shadow
from cmu_jax.studies.membership import attacks, measure
from cmu_jax.studies.membership import world as places


def world(leak, seed=0, k=16, n=600, s=3):
  """Statistics of networks in which a point trained on stands out by `leak`."""
  generator = np.random.default_rng(seed)
  inside = shadow.assign_halves(jax.random.key(seed), k, n)
  target = generator.random((s, n)) < 0.5
  base = generator.normal(0, 2, (1, n))

  def said(member):
    logit = base + leak * member + generator.normal(0, 0.5, member.shape)
    return {
      'softmax': 1 / (1 + np.exp(-logit)),
      'logit_confidence': logit,
    }

  groups = attacks.Targets(said(target), target, ~target)
  return groups, said(inside), inside


def test_relative_attacks_are_those_of_the_library_network_by_network():
  targets, references, inside = world(1.0)
  found = {
    one.attack: one
    for one in attacks.score(
      targets,
      attacks.ReferenceModels(references, inside),
      attacks.Options('softmax', 2.0),
    )
  }
  assert list(found) == ['RMIA', 'RMIA, ratio alone', 'LiRA']
  for row in range(3):
    own = audits.rmia(
      targets.statistics['softmax'][row],
      references['softmax'],
      inside,
      targets.negative[row],
      gamma=2.0,
    )
    np.testing.assert_array_equal(
      found['RMIA'].positive[row], own.score[targets.positive[row]]
    )
    np.testing.assert_array_equal(
      found['RMIA, ratio alone'].negative[row], own.ratio[targets.negative[row]]
    )


@pytest.mark.parametrize('a', [None, 0.3])
def test_attacks_find_a_leak_and_claim_nothing_without_one(a):
  for leak, low, high in ((1.0, 0.65, 1.0), (0.0, 0.45, 0.55)):
    targets, references, inside = world(leak)
    known, options = (
      attacks.ReferenceModels(references, inside),
      attacks.Options('softmax', 1.0, a),
    )
    for one in attacks.score(targets, known, options):
      area = audits.auc(
        np.concatenate(one.positive), np.concatenate(one.negative)
      )
      assert low < area < high


def world_of_its_own(leak, kept, seed, k=12, n=400):
  """K networks that forget half of their points, `kept` of the leak stays."""
  generator = np.random.default_rng(seed)
  inside = shadow.assign_halves(jax.random.key(seed), k, n)
  forget = places.draw_forget_sets(jax.random.key(seed + 99), inside, n // 4)
  base = generator.normal(0, 2, (1, n))

  def said(strength):
    logit = base + leak * strength + generator.normal(0, 0.5, inside.shape)
    return {'softmax': 1 / (1 + np.exp(-logit)), 'logit_confidence': logit}

  before = said(inside * 1.0)
  after = said(np.where(forget, kept, 1.0) * inside)
  targets = attacks.Targets(after, forget, ~inside)
  return (
    targets,
    attacks.ReferenceModels(before, inside),
    attacks.ReferenceModels(after, forget, ~inside),
  )


def pooled(scored):
  return audits.auc(
    np.concatenate(scored.positive), np.concatenate(scored.negative)
  )


def test_networks_are_audited_beside_the_others_of_them():
  targets, known, _ = world_of_its_own(1.0, 1.0, 3)
  options = attacks.Options('softmax', 2.0)
  found = attacks.score(targets, known, options, hold_out=True)
  assert {one.references for one in found} == {10}
  rest = np.r_[0:4, 6:12]
  own = audits.rmia(
    targets.statistics['softmax'][5],
    known.statistics['softmax'][rest],
    known.inside[rest],
    targets.negative[5],
  )
  np.testing.assert_array_equal(
    found[0].positive[5], own.score[targets.positive[5]]
  )
  # As many references with each point as without it, whoever is audited.
  assert (known.inside[rest].sum(0) == 5).all()


@pytest.mark.parametrize('adaptive', [False, True])
def test_side_by_side_attacks_are_fair_and_find_what_is_left(adaptive):
  for kept, low, high in ((0.0, 0.48, 0.52), (0.7, 0.6, 1.0)):
    areas = []
    for seed in range(3):
      targets, plain, own = world_of_its_own(1.5, kept, seed)
      known = own if adaptive else plain
      options = attacks.Options('softmax', 1.0)
      areas.append(
        [
          pooled(one)
          for one in attacks.score(targets, known, options, hold_out=True)
        ]
      )
    area = np.mean(areas, axis=0)
    assert len(area) == (2 if adaptive else 3)
    assert (area > low).all()
    assert (area < high).all()


def test_scores_are_of_a_network_and_a_point():
  targets, known, _ = world_of_its_own(1.0, 1.0, 1)
  options = attacks.Options('softmax', 2.0)
  one = attacks.score(targets, known, options, hold_out=True)[1]
  found = measure.group_scores(one)
  sizes = [len(scores) for scores in one.positive]
  np.testing.assert_array_equal(
    found['networks'].positive, np.repeat(np.arange(12), sizes)
  )
  np.testing.assert_array_equal(
    found['points'].negative[: len(one.negative[0])],
    np.flatnonzero(targets.negative[0]),
  )
  u = attacks.score_by_ulira(
    targets.statistics['logit_confidence'], targets.positive, targets.negative
  )
  assert [len(x) for x in u.positive] == u.members.sum(axis=1).tolist()
  assert len(np.concatenate(u.negative)) == u.others.sum()


def test_two_references_allow_no_lira():
  targets, references, inside = world(1.0, k=2)
  known, options = (
    attacks.ReferenceModels(references, inside),
    attacks.Options('softmax', 2.0),
  )
  found = attacks.score(targets, known, options)
  assert [one.attack for one in found] == ['RMIA', 'RMIA, ratio alone']
