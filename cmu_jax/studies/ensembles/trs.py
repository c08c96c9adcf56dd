r"""TRS: members with diverse input gradients and smooth losses.

  L = 1/N sum_i CE_i + 2 / (N (N - 1)) sum_{i<j} (
        lambda_a mean_x |cos(dCE_i/dx, dCE_j/dx)|
        + lambda_b mean_x (||dCE_i/dx(x_i)|| + ||dCE_j/dx(x_j)||))

where x_i is where CE_i is largest within a ball about x, found by projected
sign steps. Gradients are of network input, one for each image.

Source: TRS (NeurIPS 2021, arXiv 2104.00671), equation of L_TRS. The trainer in
the LOTOS repository overwrites this loss on four of five steps; this is the
published one.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cmu_jax.core.types import Variables
from cmu_jax.studies.ensembles.members import Members, Regulariser
from cmu_jax.training import metrics

# Inside the root: the derivative at 0 would be infinite.
_TINY = 1e-12


def compute_slopes(
  members: Members,
  variables: Variables,
  image: Float[Array, 'm b h w c'],
  label: Int[Array, 'b'],
) -> Float[Array, 'm b d']:
  """Computes the gradient of every member's loss in its own images."""

  def member_slope(member, variables, image):
    def loss(x):
      # BatchNorm as in training; its new statistics are of no use here.
      logits, _ = member.model.update(variables, x)
      return jnp.sum(metrics.cross_entropy(logits, label))

    return jax.grad(loss)(image).reshape(label.shape[0], -1)

  return members.map(member_slope, variables, image)


def _length(x: Float[Array, '*n d']) -> Float[Array, '*n']:
  return jnp.sqrt(jnp.sum(jnp.square(x), -1) + _TINY)


def measure_likeness(slope: Float[Array, 'm b d']) -> Float[Array, '']:
  """Computes the mean |cosine| between gradients of pairs of members."""
  unit = slope / _length(slope)[..., None]
  cosine = jnp.abs(jnp.einsum('ibd,jbd->ijb', unit, unit))
  # The upper triangle has each pair once.
  return jnp.mean(cosine[np.triu_indices(slope.shape[0], 1)])


def find_worst_images(
  members: Members,
  variables: Variables,
  image: Float[Array, 'b h w c'],
  label: Int[Array, 'b'],
  radius: Float[Array, 'c'],
  steps: int,
) -> Float[Array, 'm b h w c']:
  """Finds images of large loss in a ball; no gradient flows back."""
  # [member, image, row, column, channel]
  ball = radius[None, None, None, None, :]
  fixed = jax.lax.stop_gradient(variables)
  centre = jnp.broadcast_to(image, (members.size, *image.shape))

  def move(_, x):
    uphill = compute_slopes(members, fixed, x, label).reshape(x.shape)
    # Twice the radius in all, so that any point of the ball is in reach.
    image = x + 2 * ball / steps * jnp.sign(uphill)
    return jnp.clip(image, centre - ball, centre + ball)

  return jax.lax.stop_gradient(jax.lax.fori_loop(0, steps, move, centre))


def trs(
  members: Members,
  std: tuple[float, ...],
  *,
  cosine: float = 40.0,
  smooth: float = 2.5,
  radius: float = 8 / 255,
  steps: int = 6,
) -> Regulariser:
  """Creates the TRS term.

  Args:
    members: N networks.
    std: of the input step, by channel: what `radius` is divided by to be one
      of network input.
    cosine: lambda_a.
    smooth: lambda_b.
    radius: of the ball, of pixels in [0, 1].
    steps: to look for the largest loss in it.
  """
  scaled = jnp.asarray(radius / np.asarray(std), jnp.float32)

  def value(variables, carried, image, label):
    del carried
    ball = jnp.broadcast_to(scaled, image.shape[-1:])
    centre = jnp.broadcast_to(image, (members.size, *image.shape))
    alike = measure_likeness(compute_slopes(members, variables, centre, label))
    far = find_worst_images(members, variables, image, label, ball, steps)
    steep = jnp.mean(_length(compute_slopes(members, variables, far, label)))
    # Every member is in N - 1 pairs, and a pair has two members.
    return cosine * alike + smooth * 2 * steep

  return Regulariser(
    lambda key, variables: (), lambda variables, carried: carried, value
  )
