"""Requests that come one after another: each begins where the last ended."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from cmu_jax.core import errors, rng
from cmu_jax.core.types import Batch, Given, Info, Method, PRNGKey, Variables
from cmu_jax.training import descent


def _check(requests: Sequence[np.ndarray], rows: int) -> None:
  errors.check(requests, 'there are no requests to unlearn; give one or more')
  for position, request in enumerate(requests):
    errors.check(
      request.size, f'request {position} is empty; give one sample or more'
    )
  every = np.concatenate(list(requests))
  errors.check(
    every.min() >= 0 and every.max() < rows,
    f'requests name rows {every.min()} to {every.max()} of {rows} training '
    'samples; mend the indices',
  )
  errors.check(
    np.unique(every).size == every.size,
    'a sample is requested twice; name each once',
  )
  errors.check(
    every.size < rows,
    'the requests leave nothing to retain; name fewer samples',
  )


def given_of(
  train: Batch, requests: Sequence[Int[np.ndarray, '_']], position: int
) -> Given:
  """What a method sees at one request.

  Args:
    train: the training set.
    requests: rows of it that each request names.
    position: of the request.

  Returns:
    D_F, and D_R without this request and all before it, in arrays of one size
    for all requests.
  """
  rows = train.label.shape[0]
  gone = np.concatenate(list(requests[: position + 1]))
  left = np.setdiff1d(np.arange(rows), gone)
  most = max(request.size for request in requests)
  return Given(
    retain=descent.gathered(train, left, rows, False),
    forget=descent.gathered(train, requests[position], most, True),
  )


def continuous(
  key: PRNGKey,
  method: Method,
  variables: Variables,
  train: Batch,
  requests: Sequence[Int[np.ndarray, '_']],
  *,
  adaptive: bool,
  hyper: Any = None,
) -> list[tuple[Variables, Info]]:
  """Unlearns requests in turn, without tuning in between.

  Args:
    key: of all of them.
    method: of the benchmark, with D_R or without.
    variables: theta_o.
    train: what theta_o was trained on.
    requests: rows of `train` that each request names; no row twice.
    adaptive: whether the method prepares from the current weights (AMUN-A); if
      not, from theta_o (AMUN, whose adversarial images can all be found before
      the first request).
    hyper: point of the method's grid; None for its first.

  Returns:
    Weights and info after each request.

  Raises:
    UserError: empty requests, rows that are not there or come twice.

  References:
    AMUN, arXiv 2503.00917: five requests of 1000 CIFAR-10 images.
  """
  _check(requests, train.label.shape[0])
  point = method.grid[0] if hyper is None else hyper
  now, found = variables, []
  for position in range(len(requests)):
    whole = given_of(train, requests, position)
    given = Given(**{name: getattr(whole, name) for name in method.needs})
    prepared = method.prepare(
      rng.named(key, 'prepare', position),
      now if adaptive else variables,
      given,
    )
    now, info = method.solve(
      rng.named(key, 'solve', position), now, given, prepared, point
    )
    found.append((now, info))
  return found
