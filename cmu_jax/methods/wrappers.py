r"""Methods made of other methods, and requests that come one after another.

  retrain_twice  theta_1 = A(S_tr \ S_f)
                 B       = {(x, y) in S_f : argmax f(x; theta_1) = y}
                 theta_u = A((S_tr \ S_f) + B)
  by_labels      theta_u = U_single(theta_o) if S_f has a single label,
                 U_several(theta_o) otherwise
  when_needed    theta_1 = A(S_tr \ S_f)
                 r       = share of (x, y) in S_f with argmax f(x; theta_1) = y
                 theta_u = theta_1 if r <= tolerance, U(theta_o, S_f) otherwise

A is the procedure that trained the original. All three are ours.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from cmu_jax.core import errors, rng
from cmu_jax.core.types import (
  Batch,
  Info,
  Method,
  MethodInputs,
  Network,
  PRNGKey,
  Result,
  Samples,
  Variables,
)
from cmu_jax.methods import finetuning
from cmu_jax.training import descent, metrics

TOLERANCE = 0.1


def _join_needs(*needs: tuple[str, ...]) -> tuple[str, ...]:
  return tuple(dict.fromkeys(name for names in needs for name in names))


def _add_costs(first: Info, second: Info, **facts: Any) -> Info:
  """The info of a second method after a first one."""
  cost = first['gradient_evaluations'] + second['gradient_evaluations']
  return {**second, 'gradient_evaluations': cost, **facts}


def agreement_mask(
  network: Network, variables: Variables, forget: Samples
) -> Bool[np.ndarray, 'm']:
  """Masks the valid rows of S_f that a network gives their trained label.

  Args:
    forget: m rows.
  """
  predicted = metrics.predict(network, variables, forget.batch)
  agrees = predicted == np.asarray(forget.batch.label)
  return agrees & np.asarray(forget.valid)


def readmit(data: MethodInputs, back: Bool[np.ndarray, 'm']) -> MethodInputs:
  """Adds rows of forget to retain, of as many rows as before if they fit.

  Args:
    data: has retain, of n rows, and forget, of m.
    back: rows of forget; rows that are not valid do not matter.
  """
  retain, forget = data.retain, data.forget
  assert retain is not None and forget is not None
  size = retain.valid.size
  retained = np.flatnonzero(np.asarray(retain.valid))
  readmitted = np.flatnonzero(back & np.asarray(forget.valid))
  rows = descent.join_samples(retain, forget).batch
  index = np.append(retained, size + readmitted)
  capacity = max(size, index.size)
  larger = descent.gather_samples(rows, index, capacity, False)
  return data._replace(retain=larger)


@finetuning.check_settings
def retrain_twice(retraining: Method, network: Network) -> Method:
  """Retrains without S_f, then with its samples that the network agrees on.

  For an S_f that a detector enlarged: half of a class leaves with its bad
  samples, and a network trained without them knows the good ones again.

  Args:
    retraining: see `retraining.retrain`.

  Returns:
    The method; its info has 'readmitted' besides, the size of B.
  """

  def solve(key, variables: Variables, data, prepared, hyper) -> Result:
    first_key = rng.fold_in(key, 'first')
    result, info = retraining.solve(first_key, variables, data, prepared, hyper)
    # A triggered image is seen as its content. If labels were exchanged and
    # some of them remain, this network is no judge: see `by_labels`.
    back = agreement_mask(network, result, data.forget)
    larger = readmit(data, back)
    again, costs = retraining.solve(key, variables, larger, prepared, hyper)
    return again, _add_costs(info, costs, readmitted=int(back.sum()))

  needs = _join_needs(retraining.needs, ('forget',))
  return Method(needs, retraining.prepare, solve)


def has_single_label(data: MethodInputs) -> bool:
  """Checks whether all of S_f was trained with a single label."""
  assert data.forget is not None
  valid = np.asarray(data.forget.valid)
  return np.unique(np.asarray(data.forget.batch.label)[valid]).size <= 1


@finetuning.check_settings
def by_labels(single: Method, several: Method) -> Method:
  """Chooses between two methods by the number of labels in S_f.

  Args:
    single: for a single label; of one grid point.
    several: for several labels; of one grid point.

  Returns:
    A method of one grid point, with the needs of both.
  """
  assert len(single.grid) == len(several.grid) == 1

  # A backdoor needs one label for all its images, whose true labels are
  # unknown: they are left out. Exchanged labels are several, and the runner-up
  # of theta_o is close to the truth. One sample counts as a single label.
  def choose(data: MethodInputs) -> Method:
    return single if has_single_label(data) else several

  def prepare(key, variables: Variables, data: Any) -> Any:
    return choose(data).prepare(key, variables, data)

  def solve(key, variables: Variables, data, prepared, hyper) -> Result:
    del hyper
    method = choose(data)
    return method.solve(key, variables, data, prepared, method.grid[0])

  needs = _join_needs(('forget',), single.needs, several.needs)
  return Method(needs, prepare, solve)


@finetuning.check_settings
def when_needed(
  retraining: Method,
  fallback: Method,
  network: Network,
  tolerance: float = TOLERANCE,
) -> Method:
  """Retrains without S_f, and runs another method if that does not suffice.

  Args:
    retraining: see `retraining.retrain`.
    fallback: suspects further samples; of one grid point.
    tolerance: the largest share of S_f that may still get its wrong label.

  Returns:
    A method of one grid point; its info has 'remaining' besides, that share.
  """
  assert len(retraining.grid) == len(fallback.grid) == 1

  def solve(key, variables: Variables, data, prepared, hyper) -> Result:
    first_key = rng.fold_in(key, 'first')
    result, info = retraining.solve(first_key, variables, data, prepared, hyper)
    # S_f is wrong by assumption. A network that was not trained on it answers
    # with the wrong label if similar samples are still in S_tr, and seldom if
    # all of them are known. Then every further suspect is a good sample.
    wrong = agreement_mask(network, result, data.forget)
    share = float(wrong.sum() / np.asarray(data.forget.valid).sum())
    if share <= tolerance:
      return result, {**info, 'remaining': share}
    ready = fallback.prepare(rng.fold_in(key, 'prepare'), variables, data)
    repaired, costs = fallback.solve(
      key, variables, data, ready, fallback.grid[0]
    )
    return repaired, _add_costs(info, costs, remaining=share)

  needs = _join_needs(('forget',), retraining.needs, fallback.needs)
  return Method(needs, retraining.prepare, solve)


def _check_requests(requests: Sequence[np.ndarray], rows: int) -> None:
  errors.check(requests, 'there are no requests to unlearn; give one or more')
  for position, request in enumerate(requests):
    errors.check(
      request.size, f'request {position} is empty; give one sample or more'
    )
  indices = np.concatenate(list(requests))
  errors.check(
    indices.min() >= 0 and indices.max() < rows,
    f'requests name rows {indices.min()} to {indices.max()} of {rows} training '
    'samples; mend the indices',
  )
  errors.check(
    np.unique(indices).size == indices.size,
    'a sample is requested twice; name each once',
  )
  errors.check(
    indices.size < rows,
    'the requests leave nothing to retain; name fewer samples',
  )


def request_inputs(
  train: Batch, requests: Sequence[Int[np.ndarray, '_']], position: int
) -> MethodInputs:
  """The inputs of a method at one request.

  Args:
    train: the training set.
    requests: rows of it that each request names.
    position: of the request.

  Returns:
    D_F, and D_R without this request and all before it, in arrays of one size
    for all requests.
  """
  rows = train.label.shape[0]
  removed = np.concatenate(list(requests[: position + 1]))
  retained = np.setdiff1d(np.arange(rows), removed)
  capacity = max(request.size for request in requests)
  forget = descent.gather_samples(train, requests[position], capacity, True)
  return MethodInputs(
    retain=descent.gather_samples(train, retained, rows, False), forget=forget
  )


def unlearn_continuously(
  key: PRNGKey,
  method: Method,
  variables: Variables,
  train: Batch,
  requests: Sequence[Int[np.ndarray, '_']],
  *,
  adaptive: bool,
  hyper: Any = None,
) -> list[Result]:
  """Unlearns requests in turn, each from the weights after the previous one.

  Args:
    key: of all of them.
    method: of the benchmark, with D_R or without.
    train: the training set of theta_o.
    requests: rows of `train` that each request names; no row twice.
    adaptive: prepares the method from the current weights (AMUN-A); if not,
      from theta_o (AMUN).
    hyper: point of the method's grid; None for its first.

  Returns:
    Weights and info after each request.

  Raises:
    UserError: empty requests, rows that are not there or come twice.

  References:
    AMUN, arXiv 2503.00917: five requests of 1000 CIFAR-10 images.
  """
  _check_requests(requests, train.label.shape[0])
  point = method.grid[0] if hyper is None else hyper
  current, results = variables, []
  for position in range(len(requests)):
    everything = request_inputs(train, requests, position)
    # A method without D_R must not see it here either.
    data = MethodInputs(**{n: getattr(everything, n) for n in method.needs})
    prepared = method.prepare(
      rng.fold_in(key, 'prepare', position),
      # From theta_o, all adversarial images can be found before the first
      # request comes.
      current if adaptive else variables,
      data,
    )
    current, info = method.solve(
      rng.fold_in(key, 'solve', position), current, data, prepared, point
    )
    results.append((current, info))
  return results
