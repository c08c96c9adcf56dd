"""An audit claims no more than its resamples support."""

import jax
import numpy as np
import pytest
from scipy import stats

from cmu_jax import audits
from cmu_jax.audits import evaluation
from cmu_jax.commands.audit import AuditRequest, job, npz_points, page

KEY = jax.random.key(0)
TELLING = ('leaks', 'reversed')


DRAWS = {
  'normal': lambda generator, size: generator.normal(size=size),
  'tied': lambda generator, size: generator.integers(0, 4, size).astype(float),
  'heavy': lambda generator, size: generator.standard_cauchy(size),
}


# Members, non-members, attacks, and the kind of scores.
NOISES = (
  (25, 40, 6, 'normal'),
  (12, 150, 4, 'normal'),
  (30, 30, 4, 'tied'),
  (40, 20, 4, 'heavy'),
)


def test_audits_of_noise_seldom_claim_a_leak():
  """At most 5 % of audits, although each of them tries several attacks."""
  generator, audited, claims = np.random.default_rng(7), 240, 0
  for i in range(audited):
    positives, negatives, attacks, name = NOISES[i % len(NOISES)]
    verdicts = [
      audits.evaluate(
        jax.random.key(10 * i + j),
        DRAWS[name](generator, positives),
        DRAWS[name](generator, negatives),
        replicates=64,
        rule=audits.DecisionRule(0.95, attacks),
      ).verdict
      for j in range(attacks)
    ]
    claims += any(verdict in TELLING for verdict in verdicts)
  # A rate of 5 % makes more claims in one of a thousand such tests.
  assert claims <= stats.binom.ppf(0.999, audited, 0.05)


@pytest.mark.slow
def test_the_command_seldom_claims_a_leak_in_noise():
  """Noise in place of all answers, of the network and of its references."""
  count, models, classes, audited = 70, 6, 7, 200
  request = AuditRequest('o', 's', replicates=100)
  claims = 0
  for i in range(audited):
    generator = np.random.default_rng(1000 + i)
    points = npz_points.AuditPoints(
      logits=generator.normal(size=(count, classes)).astype(np.float32),
      labels=generator.integers(0, classes, count),
      member=np.arange(count) < 30,
      reference_logits=generator.normal(size=(models, count, classes)).astype(
        np.float32
      ),
      inside=np.argsort(generator.random((models, count)), 0) < models // 2,
    )
    scores = job.run_attacks(request, points)
    rows = [
      job._row(jax.random.key(i), attack, request, len(scores))
      for attack in scores
    ]
    assert len(rows) == 5 and all(row['attacks'] == 5 for row in rows)
    claims += page.overall_verdict({'rows': rows}) in TELLING
  assert claims <= 0.05 * audited


@pytest.mark.parametrize('networks', [2, 4, 8])
def test_networks_that_differ_are_no_leak(networks):
  """Scores that share a network's training seldom tell members apart."""
  generator = np.random.default_rng(networks)
  points, claims = 20, []
  side = np.repeat(np.arange(networks), points)
  clusters = [audits.Clusters(side, side)]
  for i in range(100):
    # Training shifts members and non-members of a network independently.
    shift = generator.normal(0, 2, (2, networks))
    positive, negative = (
      np.repeat(s, points) + generator.normal(size=side.size) for s in shift
    )
    audit = audits.evaluate(
      jax.random.key(i), positive, negative, clusters=clusters, replicates=100
    )
    claims.append(audit.verdict in TELLING)
  assert np.mean(claims) <= 0.06


def test_few_clusters_separate_by_chance():
  """Many scores of three networks are three observations."""
  positive, negative = np.arange(60.0) + 100, np.arange(60.0)
  for networks, expected in ((3, 'cannot conclude'), (8, 'leaks')):
    side = np.arange(60) % networks
    audit = audits.evaluate(
      KEY,
      positive,
      negative,
      clusters=[audits.Clusters(side, side)],
      replicates=50,
    )
    assert audit.verdict == expected
    # More points of the same networks would not help.
    assert ('audit more networks' in audit.says) == (networks == 3)
  # Clusters of one kind: 2 of 5 networks are the higher ones one time in 10.
  one_kind = audits.Clusters(np.array([0, 1, 1]), np.array([2, 3, 4]))
  assert evaluation._smallest_p_value(one_kind) == pytest.approx(2 / 10)
  mixed = audits.Clusters(np.array([0, 1, 2]), np.array([0, 1, 2]))
  assert evaluation._smallest_p_value(mixed) == pytest.approx(2 / 8)


@pytest.mark.parametrize('size', [60, 400, 1000, 3000])
@pytest.mark.parametrize('shift', [-0.15, -0.05, 0.0, 0.1, 0.15])
def test_no_leak_means_that_the_interval_is_tolerated(size, shift):
  generator = np.random.default_rng(size)
  audit = audits.evaluate(
    KEY,
    generator.normal(shift, 1, size),
    generator.normal(0, 1, size),
    replicates=100,
  )
  low, high = audit.interval
  inside = low >= 0.45 and high <= 0.55
  expected = {
    low > 0.5: 'leaks',
    high < 0.5: 'reversed',
  }.get(True, 'no leak found' if inside else 'cannot conclude')
  assert audit.verdict == expected
  assert f'{low:.3f} to {high:.3f}' in audit.says
  # The interval is that of the resamples' standard error.
  half = (high - low) / 2
  assert half == pytest.approx(1.97 * audit.standard_error, rel=0.02)


def test_more_attacks_need_more_evidence():
  generator = np.random.default_rng(3)
  positive, negative = (
    generator.normal(0.25, 1, 200),
    generator.normal(size=200),
  )
  verdicts, halves, detectable = [], [], []
  for attacks in (1, 20):
    audit = audits.evaluate(
      KEY, positive, negative, rule=audits.DecisionRule(attacks=attacks)
    )
    verdicts.append(audit.verdict)
    halves.append(audit.interval[1] - audit.auroc.value)
    detectable.append(audit.detectable)
    assert ('20 attacks together' in audit.says) == (attacks == 20)
  assert verdicts == ['leaks', 'cannot conclude']
  assert halves[1] > 1.4 * halves[0] and detectable[1] > detectable[0]


def test_clusters_make_leaks_harder_to_detect():
  generator = np.random.default_rng(4)
  side = np.repeat(np.arange(10), 50)
  positive, negative = (
    np.repeat(generator.normal(0, 1, 10), 50) + generator.normal(size=500)
    for _ in range(2)
  )
  alone, together = (
    audits.evaluate(KEY, positive, negative, clusters=clusters, replicates=200)
    for clusters in ((), [audits.Clusters(side, side)])
  )
  assert together.standard_error > 2 * alone.standard_error
  assert together.detectable > alone.detectable + 0.1


def row(verdict, attack='x'):
  return {'verdict': verdict, 'attack': attack, 'confidence': 0.95}


@pytest.mark.parametrize(
  ('verdicts', 'headline'),
  [
    (['leaks', 'no leak found'], 'told from non-members by 1 of 2 attacks'),
    (['reversed', 'cannot conclude'], 'distrust this audit'),
    (['leaks', 'reversed', 'leaks'], 'by 2 of 3 attacks'),
    (['no leak found'] * 3, 'No leak found by these attacks'),
    (['no leak found', 'cannot conclude'], '1 of 2 attacks find no leak'),
    (['cannot conclude'] * 2, 'Too little to conclude'),
  ],
)
def test_the_heading_is_that_of_all_attacks(verdicts, headline):
  results = {'rows': [row(verdict) for verdict in verdicts]}
  assert headline in page.headline(results)
