"""AMUN's theorem 4.1 on problems where all that it assumes is exact.

Linear least squares of fewer samples than weights: theta_o interpolates D,
theta_u D without (x, y), and theta' is one step of 1 / beta from theta_o on
D and (x_a, y_a).
"""

import numpy as np

SAMPLES, WEIGHTS, TRIALS = 6, 15, 200


def _interpolant(rng, image, label):
  """A random solution of image @ theta = label."""
  theta = rng.standard_normal(image.shape[1])
  fit = np.linalg.lstsq(image, label - image @ theta, rcond=None)[0]
  return theta + fit


def _sides(seed, stretch=1.0):
  """Both sides of the inequality, and the bound without L and delta."""
  rng = np.random.default_rng(seed)
  image = rng.standard_normal((SAMPLES, WEIGHTS))
  label = rng.standard_normal(SAMPLES)
  x, y = image[-1], label[-1]
  original = _interpolant(rng, image, label)
  retrained = _interpolant(rng, image[:-1], label[:-1])
  delta = 0.3 * rng.standard_normal(WEIGHTS)
  moved, other = x + delta, y + rng.standard_normal()

  def loss(theta, point, wanted):
    return 0.5 * (point @ theta - wanted) ** 2

  rows = np.vstack([image, moved])
  targets = np.append(label, other)
  smooth = np.linalg.eigvalsh(rows.T @ rows).max()
  step = original - stretch * rows.T @ (rows @ original - targets) / smooth
  before = np.sum((original - retrained) ** 2)
  after = np.sum((step - retrained) ** 2)
  tight = (
    loss(retrained, x, y)
    + loss(retrained, moved, other)
    - loss(step, moved, other)
  )
  # Largest slope of the loss of theta_o between x, where it is 0, and x_a.
  lipschitz = np.abs(moved @ original - y) * np.linalg.norm(original)
  gain = (
    loss(original, moved, y)
    + loss(step, moved, other)
    - loss(retrained, x, y)
    - loss(retrained, moved, other)
  )
  paper = lipschitz * np.linalg.norm(delta) - gain
  return after, before + 2 / smooth * tight, before + 2 / smooth * paper


def test_the_bound_of_the_paper_holds_and_one_without_lipschitz_is_tighter():
  after, tight, paper = np.array([_sides(seed) for seed in range(TRIALS)]).T
  assert (after <= tight + 1e-9).all()
  assert (tight <= paper + 1e-9).all()


def test_a_longer_step_breaks_the_tighter_bound():
  """So that the test above can fail."""
  after, tight, _ = np.array([_sides(seed, 6.0) for seed in range(TRIALS)]).T
  assert (after > tight + 1e-9).any()
