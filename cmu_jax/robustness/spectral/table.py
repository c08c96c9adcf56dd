"""The norms of a network's layers as a table."""

from collections.abc import Callable
from typing import Any

import rich.console
import rich.table

from cmu_jax.core import errors, rng
from cmu_jax.core.types import Model, PRNGKey, Variables
from cmu_jax.robustness.spectral import network, operators
from cmu_jax.robustness.spectral.operators import Layer

_COLUMNS = ('layer', 'kind', 'input', 'norm', 'residual')


def report(
  model: Model | Callable[..., Any],
  variables: Variables,
  image_shape: tuple[int, ...],
  *,
  key: PRNGKey | int = 0,
  show: bool = True,
  beneath: str | None = None,
) -> list[dict[str, Any]]:
  """Measures and prints the norm of every implicitly linear layer.

  A convolution with BatchNorm behind it has a third row for both as one map.
  The norms say nothing of the whole network: residual connections and shared
  inputs add up, see `cmu_jax.robustness.lipschitz`.

  Args:
    model: a Model, or (variables, image) -> anything in evaluation mode.
    variables: the network's.
    image_shape: of one image as the network takes it, (h, w, c).
    key: draws the starts.
    show: whether to print.
    beneath: what to print under the table, such as a bound of the network.

  Returns:
    A row for each layer: path, kind, shape, sigma, residual (relative, of
    M^T M; 0 for BatchNorm, whose norm is exact) and, of joint maps, norm.

  Raises:
    UserError: there is no such layer.
  """
  apply = model.apply if isinstance(model, Model) else model
  found = operators.layers(apply, variables, image_shape)
  errors.check(
    found, 'no implicitly linear layer: only modules of flax.linen are found'
  )
  every = _beside(found)
  stage = rng.named(key, 'report')
  rows = [
    {
      'path': layer.path,
      'kind': layer.kind,
      'norm': layer.norm if layer.kind == 'conv_norm' else None,
      'shape': layer.shape,
      'sigma': float(one.sigma),
      'residual': float(one.residual),
    }
    for layer, one in zip(
      every, network.norms(stage, every, variables), strict=True
    )
  ]
  if show:
    console = rich.console.Console(width=100)
    console.print(table(rows))
    if beneath is not None:
      console.print(beneath)
  return rows


def table(rows: list[dict[str, Any]]) -> rich.table.Table:
  """The rows of `report`, aligned."""
  made = rich.table.Table(title='spectral norms of the layers')
  for column in _COLUMNS:
    right = column in ('norm', 'residual')
    made.add_column(column, justify='right' if right else 'left')
  for row in rows:
    name = row['path'] or '(the network)'
    if row['norm'] is not None:
      name = f'{name} + {row["norm"].split("/")[-1]}'
    made.add_row(
      name,
      row['kind'],
      'x'.join(map(str, row['shape'])),
      f'{row["sigma"]:.4f}',
      f'{row["residual"]:.1e}',
    )
  return made


def _beside(found: tuple[Layer, ...]) -> tuple[Layer, ...]:
  """Joint maps behind their BatchNorms."""
  maps = {layer.norm: layer for layer in operators.joint(found)}
  every: list[Layer] = []
  for layer in found:
    every.append(layer)
    if layer.kind == 'norm' and layer.path in maps:
      every.append(maps.pop(layer.path))
  return tuple(every)
