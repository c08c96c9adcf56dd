"""The types that flow between the modules of this package.

Everything here is a pytree of arrays or a tuple of pure functions. Functions
and static numbers go into a factory; arrays and keys go into the call. Shapes
are written with the letters

  n  samples      h w c  height, width, channels of an image
  k  classes      d      width of the penultimate features
  s  re-drawn proxies    a  points of the alpha grid
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, UInt8

PRNGKey = Key[Array, '']
Info = dict[str, Any]


class Batch(NamedTuple):
  """A whole split on the device, or a slice of it.

  Attributes:
    image: raw pixels, 0 to 255. Triggers are never baked in. Adversarial
      images are floats: rounded to whole pixel values, they are none.
    label: class indices as the holder of the data sees them.
    stamp: which images the input step paints the trigger on; None for none.
  """

  image: UInt8[Array, '*b h w c'] | Float[Array, '*b h w c']
  label: Int[Array, '*b']
  has_trigger: Bool[Array, '*b'] | None = None


class Dataset(NamedTuple):
  """A train and a test split with the facts that go with them.

  Attributes:
    train: training split, labels as shipped.
    test: test split.
    class_names: one name a class, in label order.
    name: the source as the user wrote it, for example 'cifar10'.
  """

  train: Batch
  test: Batch
  class_names: tuple[str, ...]
  name: str

  @property
  def num_classes(self) -> int:
    return len(self.class_names)


@struct.dataclass
class Trigger:
  """A backdoor trigger, painted by the jitted input step.

  On masked pixels x becomes keep * x + value: keep = 0 overwrites (BadNets), 1
  adds (a sinusoid), 1 - w blends with weight w (value = w * pattern). On raw
  images the result is rounded and clipped to 0..255.

  Attributes:
    mask: pixels to change, on the image as it is at `stage`.
    value: one number for all of them, or a pattern [h, w] or [h, w, c]; of 0
      to 255 at stage 'raw', normalised pixel values at stage 'normalized'.
    stage: 'raw' (before resize, augmentation and normalisation) or
      'normalized' (after all of them).
    keep: the share of the image that stays, 0 to 1.
  """

  mask: Bool[Array, 'h w']
  value: Float[Array, '...']
  stage: str = struct.field(pytree_node=False, default='raw')
  keep: float = struct.field(pytree_node=False, default=0.0)


class Corruption(NamedTuple):
  """What a corruption did to the n samples it was shown.

  Attributes:
    label: labels after the corruption.
    mask: True where a sample was corrupted. Ground truth: for metrics only.
    trigger: the trigger that the masked images carry, or None.
  """

  label: Int[Array, 'n']
  mask: Bool[Array, 'n']
  trigger: Trigger | None = None


class Variables(NamedTuple):
  """What a network is: parameters and BatchNorm statistics ({} if none)."""

  params: PyTree
  batch_stats: PyTree


class Model(NamedTuple):
  """A linen module bound to pure functions of (variables, normalised images).

  Attributes:
    init: (key, image[:1]) -> Variables.
    apply: (variables, image) -> logits [n, k], evaluation mode.
    update: (variables, image) -> (logits, batch_stats), training mode.
    features: (variables, image) -> penultimate features [n, d], evaluation.
    head: (variables, features) -> logits.
    stem: (variables, image) -> the first layer's output. Linear in its
      parameters, so stem(theta - alpha tau) = stem(theta) - alpha stem(tau):
      an alpha search computes it once. None where a family has no such layer.
    trunk: (variables, stem output) -> features; None exactly when stem is.
  """

  init: Callable[..., Variables]
  apply: Callable[..., jax.Array]
  update: Callable[..., tuple[jax.Array, PyTree]]
  features: Callable[..., jax.Array]
  head: Callable[..., jax.Array]
  stem: Callable[..., jax.Array] | None = None
  trunk: Callable[..., jax.Array] | None = None


class InputStep(NamedTuple):
  """Raw pixels to network input, inside the jitted step.

  Attributes:
    train: (key, image uint8, stamp or None) -> float image, augmented.
    eval: (image uint8, stamp or None) -> float image, not augmented.
  """

  train: Callable[..., jax.Array]
  eval: Callable[..., jax.Array]


class Proxy(NamedTuple):
  """All that a source-free method may see besides the weights.

  Attributes:
    image: the pool of proxy images, never seen in training.
    kept: for each of s re-corrupted copies, which pool images it keeps.
    label: the corrupted label of each kept image.
    stamp: True where a kept image carries the trigger; None without one.
  """

  image: UInt8[Array, 'n h w c']
  positions: Int[Array, 's m']
  label: Int[Array, 's m']
  has_trigger: Bool[Array, 's m'] | None = None


class Samples(NamedTuple):
  """Some of n images, in arrays whose size does not say how many.

  Rows that are not `valid` repeat one that is: what a method was not given
  cannot be read out of them, and one compilation serves every count.

  Attributes:
    batch: images, labels and stamps of all rows.
    identified: which rows are of S_f, the samples known to be bad.
    valid: which rows count.
    fixed: which rows training must not augment, as a crop or a mirror image
      would move them off a decision boundary; None for none.
  """

  batch: Batch
  identified: Bool[Array, 'n']
  valid: Bool[Array, 'n']
  skip_augmentation: Bool[Array, 'n'] | None = None


class MethodInputs(NamedTuple):
  """What a method of the corrective benchmark may see, besides the weights.

  A part that the method did not declare is None.

  Attributes:
    retain: S_tr without S_f; what nobody found is still in it.
    forget: S_f, with the labels and triggers that it was trained with.
    proxy: other images with the same corruption, as CUTS takes them.
    clean_proxy: those images without triggers and with true labels.
    validation: images with true labels, of which nothing is reported.
  """

  retain: Samples | None = None
  forget: Samples | None = None
  proxy: Proxy | None = None
  clean_proxy: Batch | None = None
  validation: Batch | None = None


class Method(NamedTuple):
  """A method of the corrective benchmark: one repair for each point of a grid.

  Attributes:
    needs: the parts of `Given` that it reads, by name.
    prepare: (key, variables, given) -> a pytree that all points share, such as
      importances or a task vector; None where there is nothing to share.
    solve: (key, variables, given, prepared, hyper) -> (Variables, Info); the
      info has 'gradient_evaluations', of single images.
    grid: hyperparameters by name, one dict a point; the first is the default.
    elementwise: whether `solve` is cheap and traceable, so that a whole grid
      may be one program.
    model: what the repaired `Variables` are of, where that is not the network
      itself: several that answer together, stacked. None for the network.
    importances: the `importance.ImportanceRequest` of a method that starts
      from the
      importances of S_f and of the rest. Who has them hands them to `prepare`
      as a fourth argument; None for methods without.
  """

  needs: tuple[str, ...]
  prepare: Callable[..., Any]
  solve: Callable[..., tuple[Variables, Info]]
  grid: tuple[dict[str, float], ...] = ({},)
  elementwise: bool = False
  model: Model | None = None
  importances: Any = None


@runtime_checkable
class Unlearner(Protocol):
  """Repairs a network: the one type that every method has."""

  def __call__(
    self, key: PRNGKey, variables: Variables, problem: Any
  ) -> tuple[Variables, Info]: ...
