"""Checks of a caller's arguments: on the host, before anything is compiled.

NumPy and JAX broadcast shapes, clamp indices and take any number for a pixel.
A mistake of this kind therefore ends in a wrong result instead of an error.
Inside a trace values are unknown: there, only shapes and types are checked.
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from cmu_jax.core import errors

_BATCH = 'Batch(image, label)'
_SAMPLES = 'Samples: training.descent.whole_batch makes them of a Batch'
_PROXY = 'a Proxy: wrap_labels(images, labels) or make_proxy makes it'
# The way to make a value of each type of the public functions.
_REMEDIES = {
  'Batch': _BATCH,
  'Proxy': _PROXY,
  'Model': 'a Model: networks.make or networks.as_model makes it',
  'Network': 'Network(model, inputs): data.input_step.make makes the inputs',
  'Training': 'Training(optimizer, steps, batch_size)',
  'Variables': 'Variables(params, batch_stats), as init returns them',
  'InputStep': 'the result of data.input_step.make',
  'str | os.PathLike': 'a path',
  'str': 'text',
}
# The attribute that the type of each part of MethodInputs has alone. The types
# themselves import this file.
_PARTS = {
  'retain': ('batch', _SAMPLES),
  'forget': ('batch', _SAMPLES),
  'ordinary': ('batch', _SAMPLES),
  'proxy': ('positions', _PROXY),
  'clean_proxy': ('label', _BATCH),
  'validation': ('label', _BATCH),
}


def is_traced(*trees: PyTree) -> bool:
  """True inside `jit`, `vmap` or `grad`, where arrays have no values."""
  leaves = jax.tree.leaves(trees)
  return any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)


def check_type(name: str, value: Any, kind: Any) -> None:
  """Refuses a value of another type: an attribute would be absent far below.

  Args:
    name: of the argument, in the error.
    value: of any type.
    kind: the type, or a union of types.
  """
  # A union of types has no name.
  label = getattr(kind, '__name__', str(kind))
  errors.check(
    isinstance(value, kind),
    f'{name} is {errors.describe_value(value)}; give '
    f'{_REMEDIES.get(label, f"a {label}")}',
  )


def check_array(name: str, value: Any) -> None:
  """Refuses a value that is no array, such as a list."""
  errors.check(
    hasattr(value, 'shape') and hasattr(value, 'dtype'),
    f'{name} is {errors.describe_value(value)}; give an array, such as '
    'jnp.asarray(values)',
  )


def check_callable(name: str, value: Any, remedy: str) -> None:
  """Refuses a value that cannot be called."""
  errors.check(
    callable(value), f'{name} is {errors.describe_value(value)}; give {remedy}'
  )


def check_count(name: str, value: Any) -> None:
  """Refuses a value that is no integer of at least 1."""
  # True and False are integers to Python.
  whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
  errors.check(
    whole and value >= 1,
    f'{name} is {errors.describe_value(value)}; give an integer of at least 1',
  )


def check_key(key: Any, axes: int = 0) -> None:
  """Refuses a value that is no random key, such as a seed.

  Args:
    key: of `jax.random.key`, or of the earlier `jax.random.PRNGKey`.
    axes: number of axes of an array of keys; 0 for a single key.
  """
  # No conversion to an array: it would fail on most of the wrong values, in the
  # words of another library.
  dtype = getattr(key, 'dtype', None)
  typed = dtype is not None and jax.dtypes.issubdtype(
    dtype, jax.dtypes.prng_key
  )
  # A key of the earlier kind is a vector of two integers.
  errors.check(
    typed or (dtype == np.uint32 and np.ndim(key) == axes + 1),
    f'key is {errors.describe_value(key)}; give jax.random.key(seed)',
  )
  # JAX would report the shape from inside a compiled program.
  shape = key.shape if typed else key.shape[:-1]
  errors.check(
    len(shape) == axes,
    f'key has shape {shape}; give '
    + ('jax.random.split(key, count)' if axes else 'a single key'),
  )


def _shape_mistake(label: np.ndarray) -> str:
  """The mistake in the shape of labels, with its remedy; '' for none."""
  if label.ndim == 2 and 1 in label.shape:
    return f'have shape {label.shape}: flatten them with labels.reshape(-1)'
  numeric = label.dtype.kind in 'biuf'
  if label.ndim == 2 and numeric and (label.sum(axis=1) == 1).all():
    return f'are one-hot, {label.shape}: give labels.argmax(axis=1)'
  if label.ndim != 1:
    return f'have shape {label.shape}; one integer a point is needed'
  return ''


def _type_mistake(label: np.ndarray) -> str:
  """The mistake in the type of labels, with its remedy; '' for none."""
  kind = label.dtype.kind
  if kind in 'iu':
    return ''
  if kind == 'f' and not np.isfinite(label).all():
    return 'have NaN or infinite values: drop these points'
  if kind == 'f' and (label == np.round(label)).all():
    return f'are {label.dtype}: give labels.astype(int)'
  if kind == 'b':
    return 'are booleans: for two classes give labels.astype(int)'
  if kind in 'US':
    return 'are text: give the position of each class among the outputs'
  return f'are {label.dtype}; integers are needed'


def _range_mistake(label: np.ndarray, classes: int | None) -> str:
  """The mistake in the values of labels, with its remedy; '' for none."""
  if not label.size:
    return ''
  low, high = int(label.min()), int(label.max())
  if low < 0:
    return (
      f'have label {low} of sample {int(label.argmin())}, but classes count '
      f'from 0: drop unlabelled samples, or add {-low}'
    )
  if classes is None or high < classes:
    return ''
  if low == 1 and high == classes:
    return f'count from 1 to {classes}: subtract 1'
  return f'go up to {high}, but {classes} classes count from 0 to {classes - 1}'


def label_mistake(label: Any, classes: int | None = None) -> str:
  """Describes the mistake in class labels, with its remedy.

  Args:
    label: labels, which should be integers [n] from 0 to k - 1.
    classes: k; None if unknown.

  Returns:
    A predicate such as 'count from 1 to 10: subtract 1', or '' for none.
  """
  label = np.asarray(label)
  return (
    _shape_mistake(label)
    or _type_mistake(label)
    or _range_mistake(label, classes)
  )


def check_labels(name: str, label: Any, classes: int | None = None) -> None:
  """Refuses labels that are no integers [n] from 0 to k - 1.

  Args:
    name: of the labels, in the error.
    label: the labels; traced ones pass.
    classes: k; None if unknown.

  Raises:
    UserError: names the mistake and its remedy.
  """
  if is_traced(label):
    return
  mistake = label_mistake(label, classes)
  errors.check(not mistake, f'{name} {mistake}')


def check_pixels(name: str, image: Any) -> None:
  """Refuses images that are not raw pixels from 0 to 255.

  Args:
    name: of the images, in the error.
    image: uint8, or floats from 0 to 255; traced ones pass.

  Raises:
    UserError: names the mistake and its remedy.
  """
  # Bytes cannot be wrong: a large data set is not read a second time.
  if is_traced(image) or image.dtype == np.uint8 or not image.size:
    return
  # On the device: only two numbers come to the host.
  low, high = float(image.min()), float(image.max())
  errors.check(
    np.isfinite(low) and np.isfinite(high),
    f'{name} have NaN or infinite pixels; correct their source',
  )
  errors.check(
    # Adversarial images may be off by the rounding of floats.
    low >= -0.5 and high <= 255.5,
    f'{name} have pixels from {low:.4g} to {high:.4g}; give raw pixels from 0 '
    'to 255: the input step normalises them',
  )
  errors.check(
    high > 1,
    f'{name} have pixels from {low:.4g} to {high:.4g}; 0 to 255 is needed: '
    'give (255 * x).round().astype(np.uint8)',
  )


def check_image_axes(name: str, shape: Any, stacked: int = 0) -> None:
  """Refuses images that lack an axis, such as that of grey channels.

  Args:
    name: of the images, in the error.
    shape: of the images, behind `stacked` axes.
    stacked: number of axes in front.
  """
  axes = len(shape) - stacked
  remedy = {
    3: 'add the axis of a single channel, image[..., None], or of a single '
    'image, image[None]',
    2: 'reshape each row to its height, width and channels',
  }.get(axes, 'give one axis each')
  errors.check(
    axes == 4,
    f'{name} have shape {tuple(shape)}, not [n, h, w, c]: {remedy}',
  )


def check_pairs(name: str, image: Any, label: Any, stacked: int = 0) -> None:
  """Refuses images and labels of different counts: indices would be clamped.

  Args:
    name: of both, in the error.
    image: images [n, ...], behind `stacked` axes.
    label: labels [n], behind the same axes.
    stacked: number of axes in front.

  Raises:
    UserError: labels that are no vector, or of another length.
  """
  shape = np.shape(label)
  if len(shape) != 1 + stacked:
    mistake = '' if is_traced(label) else _shape_mistake(np.asarray(label))
    raise errors.UserError(
      f'labels of {name} {mistake or f"have shape {shape}; give integers [n]"}'
    )
  errors.check(
    np.shape(image)[: 1 + stacked] == shape,
    f'{name} are {np.shape(image)[stacked]} images with {shape[-1]} labels; '
    'give one label an image',
  )


def check_inputs(needs: tuple[str, ...], data: Any) -> None:
  """Refuses data of a method that are missing or malformed.

  Args:
    needs: the parts that the method reads.
    data: a `MethodInputs`.

  Raises:
    UserError: names the part, the mistake and its remedy.
  """
  errors.check(
    all(hasattr(data, name) for name in needs),
    f'a method takes MethodInputs({", ".join(f"{n}=..." for n in needs)}), not '
    f'{type(data).__name__}',
  )
  for name in needs:
    part = getattr(data, name)
    errors.check(part is not None, f'the method needs {name}; it is None')
    # A Proxy has all attributes of a Batch, hence the second condition.
    attribute, remedy = _PARTS[name]
    errors.check(
      hasattr(part, attribute)
      and (attribute == 'positions') == hasattr(part, 'positions'),
      f'{name} is {errors.describe_value(part)}; give {remedy}',
    )
    if is_traced(part):
      continue
    # Subsets are padded: their batch has rows that nobody reads.
    batch, valid = getattr(part, 'batch', part), getattr(part, 'valid', None)
    label = np.asarray(batch.label)
    check_image_axes(f'images of {name}', np.shape(batch.image))
    # Labels of a proxy come from several draws.
    if not hasattr(batch, 'positions'):
      check_pairs(name, batch.image, label)
    check_labels(
      f'labels of {name}', label.ravel() if valid is None else label[valid]
    )
    check_pixels(f'images of {name}', batch.image)


def check_same_shapes(names: str, first: PyTree, second: PyTree) -> None:
  """Refuses trees whose leaves differ in shape: they would broadcast.

  Args:
    names: of the two trees, in the error: 'start and end'.
    first: a pytree; leaves without a shape are not compared.
    second: a pytree of the same structure.

  Raises:
    UserError: names the first leaf that differs, or that one tree lacks.
  """
  paths, others = (
    dict(jax.tree_util.tree_flatten_with_path(tree)[0])
    for tree in (first, second)
  )
  # The path of a tree that is a single leaf is empty, and says nothing.
  errors.check(
    (() in paths) == (() in others),
    f'{names} differ: one of them is a single number or array; both must be '
    'of the same network',
  )
  surplus = sorted(map(jax.tree_util.keystr, paths.keys() ^ others.keys()))
  errors.check(
    not surplus,
    f'{names} differ: one of them lacks {"".join(surplus[:1])}; both must be '
    'of the same network',
  )

  def compare(path, leaf, other):
    shapes = getattr(leaf, 'shape', None), getattr(other, 'shape', None)
    errors.check(
      None in shapes or shapes[0] == shapes[1],
      f'{names} differ at {jax.tree_util.keystr(path)}: shape {shapes[0]} and '
      f'{shapes[1]}; both must be of the same network',
    )

  jax.tree_util.tree_map_with_path(compare, first, second)
