"""All mistakes of a command line in one message, a line each."""

import pytest

from cmu_jax import __main__ as program
from cmu_jax.core import errors


@pytest.mark.parametrize(
  ('words', 'parts'),
  [
    (['unlearn'], ['--weights, --model, --forget, --out missing']),
    (
      ['unlearn', '--method=scrub', '--epochs=0'],
      ['--weights, --model, --forget, --out missing', '--epochs is 0', 'scrub'],
    ),
    (
      ['repair', '--proxi=x', '--kind=poisson', '--steps=many', '--out=o'],
      ["'--proxi'", '--steps takes', '--weights, --model missing'],
    ),
    (
      ['repair', '--kind=poisson', '--mean=.5', '--out=o'],
      [
        '--weights, --model missing',
        "'poisson'",
        '--mean and --std',
        '--ordinary or --proxy missing',
      ],
    ),
    (
      [
        *('unlearn', '--weights=w', '--model=m', '--forget=f', '--out=o'),
        *('--mean=.5;.4', '--epochs=x', '--seed=x'),
      ],
      [
        "--mean takes numbers such as 0.5,0.25, not '.5;.4'",
        "--epochs takes an int (now 10), not 'x'",
        "--seed takes an int (now 0), not 'x'",
      ],
    ),
    (['audit', '--refs=3'], ['--out missing', 'give --scores=']),
    (['audit', '--out=', '--gama=1', '--pad=x'], ['gama', '--out=', '--pad']),
  ],
)
def test_mistakes_come_together(capfd, words, parts):
  assert program.main(words) == 2
  said = capfd.readouterr().err.splitlines()
  assert len(said) == len(parts)
  for part, line in zip(parts, said, strict=True):
    assert line.startswith('error: ') and part in line


@pytest.mark.parametrize(
  ('name', 'suggestion'),
  [('resnet21', 'resnet20'), ('resnet33', 'resnet32'), ('vgg18', 'vgg19')],
)
def test_the_suggestion_begins_alike(name, suggestion):
  names = ['resnet20', 'resnet32', 'resnet50', 'resnet18', 'vgg19', 'vgg11']
  error = errors.unknown_name('model', name, names)
  assert str(error).endswith(f"did you mean '{suggestion}'?")


def test_one_mistake_stays_as_it_is():
  def fail():
    raise errors.UserError('once')

  with pytest.raises(errors.UserError, match='once') as caught:
    errors.collect(lambda: None, fail)
  assert type(caught.value) is errors.UserError
