r"""LOTOS: layers of members are kept from amplifying the same directions.

With v_i the top right singular vectors of a layer of f, and v'_i of g's,

  S_k(f, g) = sum_i w_i (relu(||f(v'_i)|| - mal) + relu(||g(v_i)|| - mal))
  L = mean of cross-entropies
      + lambda / (M N (N - 1)) sum over layers and pairs of S_k

for M layers and N members; biases left out, no gradient through the vectors.
Layers are clipped to norms of at most c, so that mal must lie below c.

Source: LOTOS (ICLR 2025), equations 3.3 and 3.4.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cmu_jax.core import errors, rng
from cmu_jax.core.types import PRNGKey, Variables
from cmu_jax.robustness import spectral
from cmu_jax.studies.ensembles.members import Members, Regulariser

Vectors = tuple[Float[Array, 'm k ...'], ...]
# Inside the root: the derivative at 0 would be infinite.
_TINY = 1e-12


def make_weights(k: int) -> Float[Array, 'k']:
  """Computes w_i, in proportion to 1 - 0.01 i as released, of sum 1."""
  raw = 1 - 0.01 * jnp.arange(k)
  return raw / raw.sum()


def find_vectors(
  key: PRNGKey, members: Members, variables: Variables, k: int, rounds: int
) -> Vectors:
  """Finds the top right singular vectors of every layer of every member."""
  # Random starts have a part along every singular vector.
  starts = tuple(
    jax.random.normal(
      rng.fold_in(key, i), (members.size, k, *shape), jnp.float32
    )
    for i, shape in enumerate(members.shapes)
  )
  return advance_vectors(members, variables, starts, rounds)


def advance_vectors(
  members: Members,
  variables: Variables,
  start_vectors: Vectors,
  rounds: int = 1,
) -> Vectors:
  """Continues PowerQR from the singular vectors of the step before."""

  def advance_member(member, variables, *starts):
    return tuple(
      spectral.power_qr(
        # A start is there, so that no key is used.
        rng.fold_in(0),
        spectral.bind_layer(layer, variables),
        layer.shape,
        k=start.shape[0],
        iterations=rounds,
        start=start,
      ).vector
      for layer, start in zip(member.layers, starts, strict=True)
    )

  # The penalty holds the vectors fixed, as published.
  return jax.lax.stop_gradient(
    members.map(advance_member, variables, *start_vectors)
  )


def measure_lengths(
  members: Members, variables: Variables, singular: Vectors
) -> Float[Array, 'l m m k']:
  """Computes A[l, i, j] = ||f_i(v_j)|| of layer l."""
  flat = [jax.lax.stop_gradient(v).reshape(-1, *v.shape[2:]) for v in singular]

  def member_lengths(member, variables):
    lengths = []
    for layer, v in zip(member.layers, flat, strict=True):
      # All vectors of all members go through the layer as one batch.
      image = spectral.bind_layer(layer, variables)(v).reshape(v.shape[0], -1)
      size = jnp.sum(jnp.square(v.reshape(v.shape[0], -1)), -1)
      lengths.append(jnp.sqrt(jnp.sum(jnp.square(image), -1) / size + _TINY))
    return jnp.stack(lengths)

  sizes = members.map(member_lengths, variables)
  count, depth, _ = sizes.shape
  return jnp.moveaxis(sizes, 0, 1).reshape(depth, count, count, -1)


def measure_similarity(
  sizes: Float[Array, 'l m m k'], mal: float
) -> Float[Array, 'l']:
  """Computes S_k of each layer, added over all pairs of members."""
  excess = jnp.maximum(sizes - mal, 0) @ make_weights(sizes.shape[-1])
  # A member is not compared with itself.
  foreign = 1 - jnp.eye(sizes.shape[1])
  return jnp.sum(excess * foreign[None], axis=(1, 2))


def make_factor(
  strength: float, depth: int, count: int, normaliser: str
) -> float:
  """Computes the factor of the sum of all S_k.

  Raises:
    UserError: an unknown normaliser, or fewer than two members.
  """
  errors.check(count > 1, f'LOTOS of {count} member: give it 2 or more')
  if normaliser == 'code_compat_norm':
    return strength
  if normaliser != 'paper':
    raise errors.unknown_name(
      'normaliser of LOTOS', str(normaliser), ('paper', 'code_compat_norm')
    )
  return strength / (depth * count * (count - 1))


def lotos(
  members: Members,
  *,
  strength: float = 2.0,
  mal: float = 0.8,
  clip: float = 1.0,
  k: int = 1,
  rounds: int = 100,
  normaliser: str = 'paper',
) -> Regulariser:
  """Creates the penalty of LOTOS.

  Args:
    members: N networks, compared by their layers.
    strength: lambda. The released code multiplies the plain sum with 0.05 and
      adds cross-entropies up, which for three ResNet-18 is lambda = 2 here.
    mal: maximum allowed length; must lie below `clip`.
    clip: c, the bound on the norm of every layer.
    k: singular vectors of each layer.
    rounds: of PowerQR before the first step; afterwards one each step.
    normaliser: 'paper', or 'code_compat_norm' for what the released code does:
      no normaliser, cross-entropies added.

  Raises:
    UserError: mal is not below c, so that the penalty would be idle, or an
      unknown normaliser.
  """
  errors.check(
    0 <= mal < clip,
    f'LOTOS with mal {mal} and layers clipped to {clip}: the penalty would be '
    'idle; use a mal from 0 to below that bound, for example 0.8',
  )
  factor = make_factor(strength, len(members.shapes), members.size, normaliser)

  def value(variables, singular, image, label):
    del image, label
    lengths = measure_lengths(members, variables, singular)
    return factor * measure_similarity(lengths, mal).sum()

  return Regulariser(
    lambda key, variables: find_vectors(key, members, variables, k, rounds),
    lambda variables, singular: advance_vectors(members, variables, singular),
    value,
    normaliser == 'code_compat_norm',
  )
