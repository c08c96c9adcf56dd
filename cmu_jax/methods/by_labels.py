r"""Two methods for two manipulations, told apart by the labels of S_f.

  theta_u = U_one(theta_o)      where S_f was trained with a single label
            U_several(theta_o)  otherwise

A backdoor needs one label for all its images, and what they truly show is
anybody's guess: they are left out. Labels that were exchanged are several, and
the runner-up of theta_o is close to the truth: they are put right. Ours; with a
fraction identified no other knowledge of the manipulation is used. One sample
in S_f says nothing, so it counts as a single label.
"""

from typing import Any

import numpy as np

from cmu_jax.core.types import Given, Info, Method, Variables


def single_label(given: Given) -> bool:
  """Whether all of S_f was trained with one label."""
  assert given.forget is not None
  valid = np.asarray(given.forget.valid)
  return np.unique(np.asarray(given.forget.batch.label)[valid]).size <= 1


def by_labels(one: Method, several: Method) -> Method:
  """Either of two methods, by the labels that S_f was trained with.

  Args:
    one: for a single label; of one grid point.
    several: for several labels; of one grid point.

  Returns:
    A method of one grid point, which needs what both of them need.
  """
  assert len(one.grid) == len(several.grid) == 1

  def chosen(given: Given) -> Method:
    return one if single_label(given) else several

  def prepare(key, variables: Variables, given: Any) -> Any:
    return chosen(given).prepare(key, variables, given)

  def solve(
    key, variables: Variables, given: Any, prepared, hyper
  ) -> tuple[Variables, Info]:
    del hyper
    method = chosen(given)
    return method.solve(key, variables, given, prepared, method.grid[0])

  needs = tuple(dict.fromkeys(('forget', *one.needs, *several.needs)))
  return Method(needs, prepare, solve)
