"""Text typed on a command line becomes a value of the right type, or not."""

import hypothesis
from hypothesis import strategies

from cmu_jax.core import errors, literals


@hypothesis.given(strategies.text(max_size=30))
@hypothesis.settings(deadline=None, max_examples=100)
def test_free_text_never_fails(text):
  assert isinstance(
    literals.parse_untyped(text),
    (bool, int, float, str, tuple, list, type(None)),
  )


@hypothesis.given(
  strategies.text(max_size=20),
  strategies.sampled_from(
    [True, 1, 0.5, 'a', (1, 2), (), [0.1], ((1,),), None]
  ),
)
@hypothesis.settings(deadline=None, max_examples=200)
def test_parse_keeps_the_type_or_refuses(text, like):
  try:
    value = literals.parse(text, like, 'field')
  except errors.UserError as error:
    assert '\n' not in str(error)
    return
  assert like is None or type(value) is type(like)
