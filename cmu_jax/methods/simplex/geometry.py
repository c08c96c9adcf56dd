"""A simplex of networks: task vectors as vertices, and its frame.

  v_i = base - scale tau_i,   theta(w) = sum_i w_i v_i,   w ~ Dirichlet(alpha)

Every method needs the frame: the centroid and the deviations of the vertices
from it, of floating-point leaves in float32 at least. Vertices of a stream are
read one at a time on the host, so that a device holds the centroid, one
deviation and the values that the network computes from them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, PyTree

from cmu_jax.core import errors, tree
from cmu_jax.core.types import PRNGKey
from cmu_jax.methods.task_vectors import algebra, leaves

Floats = list[Any]


class Frame(NamedTuple):
  """A simplex about one of its points.

  Attributes:
    centre: floating-point leaves of the centroid (or of the base).
    mean: E[w], [q].
    total: alpha_0, the sum of alpha.
    deviation: i -> v_i - centre.
    combine: w -> sum_i w_i (v_i - centre).
    fixed: leaves that are not floating-point.
    skeleton: of the parameters.
    streamed: vertices are read on the host, one at a time.
  """

  centre: Floats
  mean: Float[Array, 'q']
  total: Any
  deviation: Callable[[Any], Floats]
  combine: Callable[[Any], Floats]
  fixed: list[Any]
  skeleton: leaves.Skeleton
  streamed: bool


@struct.dataclass
class TaskSimplex:
  """All networks between base - scale tau_i, with a distribution over them.

  Attributes:
    base: parameters before fine-tuning.
    taus: task vectors stacked along a leading axis, or a function i -> tau,
      which is called whenever a vector is needed and may read it from a file.
    scale: lambda; a positive number goes against the task vectors.
    alpha: of the Dirichlet distribution over barycentric weights, [q]; None
      for all ones, the uniform distribution.
    count: number of vectors of a function; None with stacked vectors.
  """

  base: Any
  taus: Any
  scale: Any = 1.0
  alpha: Any = None
  count: int | None = struct.field(pytree_node=False, default=None)

  @property
  def q(self) -> int:
    """The number of vertices."""
    if self.count is not None:
      return self.count
    errors.check(
      not callable(self.taus),
      'the task vectors come from a function: give TaskSimplex their count',
    )
    floats = leaves.split(self.taus).floats
    errors.check(floats, 'the task vectors hold no floating-point arrays')
    return int(floats[0].shape[0])

  def validate(self) -> 'TaskSimplex':
    """Checks that the parts fit each other; returns the simplex itself.

    Raises:
      UserError: vectors of another network, none at all, an alpha of another
        length or not above 0.
    """
    errors.check(self.q >= 1, 'a simplex needs 1 task vector or more')
    if not callable(self.taus):
      leaves.check_like(self.base, self.taus, 'the stack of task vectors', 1)
      odd = {x.shape[0] for x in leaves.split(self.taus).floats} - {self.q}
      errors.check(
        not odd, f'stacks of {self.q} and of {odd} task vectors are mixed'
      )
    if self.alpha is not None:
      shape = np.shape(self.alpha)
      errors.check(
        shape == (self.q,),
        f'alpha has shape {shape} for {self.q} task vectors; give each vector '
        'one number',
      )
      # A traced value cannot be compared on the host.
      if not isinstance(self.alpha, jax.core.Tracer):
        errors.check(
          (np.asarray(self.alpha) > 0).all(), 'alpha must be above 0 throughout'
        )
    return self

  def mean(self) -> Float[Array, 'q']:
    """E[w]."""
    if self.alpha is None:
      return jnp.full(self.q, 1 / self.q, _weight_dtype(self.base))
    alpha = jnp.asarray(self.alpha, _weight_dtype(self.base))
    return alpha / alpha.sum()

  def total(self) -> Any:
    """alpha_0, the sum of alpha: Q for the uniform distribution."""
    return float(self.q) if self.alpha is None else jnp.sum(self.alpha)

  def vertex(self, i: int) -> PyTree:
    """The network base - scale tau_i."""
    tau = self.taus(i) if callable(self.taus) else tree.index(self.taus, i)
    # Minus: task vectors point towards the data to forget.
    return algebra.edit(self.base, tau, self.scale)

  def vertices(self) -> PyTree:
    """All vertices along a leading axis; they are in memory together."""
    return algebra.stack([self.vertex(i) for i in range(self.q)])

  def point(self, w: Any) -> PyTree:
    """The network at barycentric weights [q] that sum to 1."""
    centred = frame(self)
    step = centred.combine(w)
    floats = [c + d for c, d in zip(centred.centre, step, strict=True)]
    return leaves.join(centred.skeleton, floats, centred.fixed)

  def centroid(self) -> PyTree:
    """The network at E[w]: the uniform soup of the vertices."""
    centred = frame(self)
    return leaves.join(centred.skeleton, centred.centre, centred.fixed)

  def sample(self, key: PRNGKey, n: int) -> Float[Array, 'n q']:
    """Draws the barycentric weights of n networks."""
    dtype = _weight_dtype(self.base)
    if self.alpha is not None:
      return jax.random.dirichlet(key, jnp.asarray(self.alpha, dtype), (n,))
    # Normalised exponentials are uniform on the simplex, without the rejection
    # loop of the gamma draws behind a general Dirichlet.
    lengths = jax.random.exponential(key, (n, self.q), dtype)
    return lengths / lengths.sum(axis=1, keepdims=True)

  def gram(self) -> Float[Array, 'q q']:
    """Inner products of the deviations from the centroid."""
    centred = frame(self)
    if not centred.streamed:
      stacked = jax.lax.map(centred.deviation, jnp.arange(self.q))
      return algebra.gram(stacked)
    products = np.zeros((self.q, self.q))
    for i in range(self.q):
      row = centred.deviation(i)
      # Read anew for every pair: memory holds two vectors, not all of them.
      for j in range(i, self.q):
        column = row if i == j else centred.deviation(j)
        pairs = zip(row, column, strict=True)
        product = sum(float(np.vdot(a, b)) for a, b in pairs)
        products[i, j] = products[j, i] = product
    return jnp.asarray(products, centred.mean.dtype)

  def radius(self) -> Float[Array, '']:
    """The root mean square distance of a network from the centroid."""
    squared = jnp.sum(self.mean() * jnp.diag(self.gram()))
    # Cov(w) = (diag(m) - m m') / (alpha_0 + 1), and sum_i m_i d_i = 0.
    return jnp.sqrt(jnp.maximum(squared, 0) / (self.total() + 1))


def _weight_dtype(params: PyTree) -> Any:
  """The dtype of weights: float64 if a parameter has it, else float32."""
  # bfloat16 weights of 1/Q would not sum to 1.
  dtypes = [x.dtype for x in leaves.split(params).floats]
  return jnp.promote_types(
    jnp.float32, jnp.result_type(*dtypes) if dtypes else jnp.float32
  )


def frame(simplex: TaskSimplex, anchor: str = 'centroid') -> Frame:
  """Builds the frame of a simplex about its centroid, or about its base.

  Args:
    simplex: validated here.
    anchor: 'centroid' or 'base'.
  """
  simplex.validate()
  base, mean, scale = leaves.split(simplex.base), simplex.mean(), simplex.scale
  streamed = callable(simplex.taus)
  host: Callable[[Any], Any] = lambda x: x
  if streamed:
    _check_concrete([scale, *base.floats])
    # NumPy from here on: JAX arrays would put every vector on the device.
    scale, host = float(scale), np.asarray
    vector, average = _read_vectors(simplex, base.floats)
  else:
    vector, average = _index_vectors(simplex)
  # About the base, deviations are the scaled task vectors themselves.
  offset = average(0 * mean if anchor == 'base' else mean)

  def deviation(i: Any) -> Floats:
    pairs = zip(vector(i), offset, strict=True)
    return [-scale * (x - o) for x, o in pairs]

  def combine(w: Any) -> Floats:
    w = host(jnp.asarray(w, mean.dtype))
    # Rows of a basis need not sum to 1: the offset counts as often as vectors.
    pairs = zip(average(w), offset, strict=True)
    return [-scale * (x - w.sum().astype(x.dtype) * o) for x, o in pairs]

  centre = [
    jnp.asarray(host(leaves.widen(x)) - scale * o)
    for x, o in zip(base.floats, offset, strict=True)
  ]
  return Frame(
    centre,
    mean,
    simplex.total(),
    deviation,
    combine,
    base.fixed,
    base.skeleton,
    streamed,
  )


def _check_concrete(values: list[Any]) -> None:
  errors.check(
    not any(isinstance(x, jax.core.Tracer) for x in values),
    'task vectors of a function are read on the host, outside of jit and vmap; '
    'stack them to transform the ensemble',
  )


def _index_vectors(simplex: TaskSimplex) -> tuple[Callable, Callable]:
  """i -> tau_i and w -> sum_i w_i tau_i, of stacked vectors."""
  floats = leaves.split(simplex.taus).floats

  def average(w: Any) -> Floats:
    # 'highest': TF32 products would lose the digits that deviations need.
    return [
      jnp.tensordot(w.astype(x.dtype), x, 1, precision='highest')
      for x in map(leaves.widen, floats)
    ]

  return lambda i: [leaves.widen(x[i]) for x in floats], average


def _read_vectors(
  simplex: TaskSimplex, base: list[Any]
) -> tuple[Callable, Callable]:
  """i -> tau_i and w -> sum_i w_i tau_i, of vectors read one by one."""

  def read(i: Any) -> Floats:
    tau = simplex.taus(int(i))
    leaves.check_like(simplex.base, tau, f'task vector {i}')
    return [np.asarray(leaves.widen(x)) for x in leaves.split(tau).floats]

  def average(w: Any) -> Floats:
    total = [np.zeros(x.shape, leaves.widen(x).dtype) for x in base]
    for i, share in enumerate(np.asarray(w)):
      # Reading may be a file: skip vectors that do not count.
      if share:
        total = [t + share * x for t, x in zip(total, read(i), strict=True)]
    return total

  return read, average
