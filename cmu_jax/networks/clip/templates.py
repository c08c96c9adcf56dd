"""Sentences that a class name is put into, by the kind of picture.

Names are the field's: CUTS (arXiv 2511.18660) describes CIFAR by 18 sentences,
each of nine qualities with both articles, and MNIST by the word "number".
"""

import itertools
from collections.abc import Sequence

_QUALITIES = (
  '',
  'blurry ',
  'black and white ',
  'low contrast ',
  'high contrast ',
  'bad ',
  'good ',
  'small ',
  'big ',
)


def _of(subject: str) -> tuple[str, ...]:
  return tuple(
    f'a {view} of {subject}.' for view in ('photo', 'close-up photo')
  )


CIFAR: tuple[str, ...] = tuple(
  (
    f'a photo of {article} {quality}{{}}.'
    if quality in ('small ', 'big ')
    else f'a {quality}photo of {article} {{}}.'
  )
  for article, quality in itertools.product(('a', 'the'), _QUALITIES)
)
IMAGENET: tuple[str, ...] = (
  'a photo of a {}.',
  'a photo of the {}.',
  'a photo of many {}.',
  'a photo of one {}.',
  'a close-up photo of a {}.',
  'a cropped photo of the {}.',
  'a bright photo of a {}.',
  'a dark photo of the {}.',
  'a bad photo of a {}.',
  'a drawing of a {}.',
  'a photo of a {} in its surroundings.',
)
BY_DATASET: dict[str, tuple[str, ...]] = {
  'cifar10': CIFAR,
  'cifar100': CIFAR,
  'mnist': ('a photo of the number: "{}".',),
  'svhn_cropped': ('a photo of the number: "{}".', 'the house number "{}".'),
  'imagenet2012': IMAGENET,
  'cars196': (*_of('a {}'), 'a photo of the {}, a car.'),
  'dtd': (*_of('a {} texture'), 'a photo of a {} surface.'),
  'eurosat': ('a satellite photo of {}.', 'a photo of {}, seen from space.'),
  'resisc45': ('an aerial photo of {}.', 'satellite imagery of {}.'),
  'sun397': ('a photo of a {}.', 'a photo taken in a {}.', 'a view of a {}.'),
  'gtsrb': (*_of('a "{}" traffic sign'), 'a photo of the {} road sign.'),
}


def of(dataset: str) -> tuple[str, ...]:
  """The sentences for a dataset; those of IMAGENET where it has none."""
  return BY_DATASET.get(dataset, IMAGENET)


def words(class_names: Sequence[str]) -> tuple[str, ...]:
  """Class names as a caption would have them: '_' becomes a space.

  >>> words(('maple_tree',))
  ('maple tree',)
  """
  return tuple(name.replace('_', ' ').strip() for name in class_names)
