"""Types that all packages share.

Every type is a pytree of arrays or a tuple of pure functions. Functions and
static numbers go into a factory; arrays and keys go into the call. Letters of
the shapes:

  n  samples      h w c  height, width, channels of an image
  k  classes      d      width of the penultimate features
  s  proxy sets   a      points of the alpha grid
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, UInt8

from cmu_jax.core import array_checks

# Typed keys of jax.random.key, not raw uint32 keys.
PRNGKey = Key[Array, '']
# Facts about a result by name, such as counts and seconds.
Info = dict[str, Any]


class Batch(NamedTuple):
  """A whole split on the device, or a part of it.

  Attributes:
    image: raw pixels, 0 to 255. They never contain the trigger. Adversarial
      images are floats, because rounding would undo small perturbations.
    label: class indices as the holder of the data sees them.
    has_trigger: marks the images on which the input step paints the trigger;
      None if no image has one.
  """

  image: UInt8[Array, '*b h w c'] | Float[Array, '*b h w c']
  label: Int[Array, '*b']
  has_trigger: Bool[Array, '*b'] | None = None


class Dataset(NamedTuple):
  """A train and a test split with their classes.

  Attributes:
    train: training split, labels as shipped.
    test: test split.
    class_names: name of each class, in label order.
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

  By its form, masked pixels x become something else (`data.painting`). Of the
  form 'pattern', x becomes keep * x + value: keep = 0 overwrites (BadNets), 1
  adds (a sinusoid), 1 - w blends with weight w (value = w * pattern). On raw
  images the result is rounded and clipped to 0..255.

  Attributes:
    mask: pixels to change, in the image size at `stage`.
    value: a number for all of them, or a pattern [h, w] or [h, w, c]: 0 to 255
      at stage 'raw', normalised pixel values at stage 'normalized'.
    stage: 'raw' (before resize, augmentation and normalisation) or
      'normalized' (after all of them).
    keep: weight of the original pixel, 0 to 1.
    form: 'pattern'; 'warp' (value is a displacement in pixels, [h, w, 2]); or
      'encoded' (value is a pattern for each low frequency, [m, h, w]).
  """

  mask: Bool[Array, 'h w']
  value: Float[Array, '...']
  # Static, because they choose the operations of the compiled input step.
  stage: str = struct.field(pytree_node=False, default='raw')
  keep: float = struct.field(pytree_node=False, default=0.0)
  form: str = struct.field(pytree_node=False, default='pattern')


class Corruption(NamedTuple):
  """Result of corrupting n samples.

  Attributes:
    label: labels after the corruption.
    mask: marks the corrupted samples. Ground truth: for metrics only.
    trigger: the trigger on the masked images, or None.
  """

  label: Int[Array, 'n']
  mask: Bool[Array, 'n']
  trigger: Trigger | None = None


class Variables(NamedTuple):
  """Parameters and BatchNorm statistics ({} if none) of a network."""

  params: PyTree
  batch_stats: PyTree


class Model(NamedTuple):
  """A linen module as pure functions of (variables, normalised images).

  Attributes:
    init: (key, image[:1]) -> Variables.
    apply: (variables, image) -> logits [n, k], evaluation mode.
    update: (variables, image) -> (logits, batch_stats), training mode.
    features: (variables, image) -> penultimate features [n, d], evaluation.
    head: (variables, features) -> logits.
    stem: (variables, image) -> output of the first layer. It is linear in its
      parameters, so stem(theta - alpha tau) = stem(theta) - alpha stem(tau):
      an alpha search computes both terms once. None for families without.
    trunk: (variables, stem output) -> features; None exactly when stem is.
  """

  init: Callable[..., Variables]
  apply: Callable[..., jax.Array]
  update: Callable[..., tuple[jax.Array, PyTree]]
  features: Callable[..., jax.Array]
  head: Callable[..., jax.Array]
  # Optional: networks of users need not have a separable first layer.
  stem: Callable[..., jax.Array] | None = None
  trunk: Callable[..., jax.Array] | None = None


class InputStep(NamedTuple):
  """Raw pixels to network input, inside the jitted step.

  Attributes:
    train: (key, image uint8, has_trigger or None) -> float image, augmented.
    eval: (image uint8, has_trigger or None) -> float image, not augmented.
  """

  train: Callable[..., jax.Array]
  eval: Callable[..., jax.Array]


class Network(NamedTuple):
  """A model and the input step that feeds it.

  Attributes:
    model: functions of variables and network input.
    inputs: raw pixels to network input; paints triggers.
  """

  model: Model
  inputs: InputStep


class Training(NamedTuple):
  """The settings of a gradient descent.

  Attributes:
    optimizer: an optax transformation, schedule included.
    steps: optimizer steps.
    batch_size: samples a step.
  """

  optimizer: optax.GradientTransformation
  steps: int
  batch_size: int


class Proxy(NamedTuple):
  """Corrupted proxy images: all data that a source-free method may see.

  Attributes:
    image: the pool of proxy images, never seen in training.
    positions: the images of the pool that each of s re-corrupted sets contains.
    label: the corrupted labels of these images.
    has_trigger: marks those with the trigger; None without trigger.
  """

  image: UInt8[Array, 'n h w c']
  positions: Int[Array, 's m']
  label: Int[Array, 's m']
  has_trigger: Bool[Array, 's m'] | None = None


class Samples(NamedTuple):
  """A padded subset of n images; `valid` marks the real rows.

  Every other row repeats a real row, so no method can read withheld images out
  of the padding. One compilation serves subsets of every size.

  Attributes:
    batch: images, labels and trigger flags of all rows.
    identified: marks the rows of S_f, the samples known to be bad.
    valid: marks the real rows.
    skip_augmentation: marks rows that training must not augment, because a crop
      or a mirror image would move them off a decision boundary; None for none.
  """

  batch: Batch
  identified: Bool[Array, 'n']
  valid: Bool[Array, 'n']
  skip_augmentation: Bool[Array, 'n'] | None = None


class MethodInputs(NamedTuple):
  """Data that a method may see, besides the weights.

  A part that the method did not declare is None.

  Attributes:
    retain: S_tr without S_f; it still contains the unidentified bad samples.
    forget: S_f, with the labels and triggers of its training.
    proxy: other images with the same corruption, as CUTS takes them.
    clean_proxy: the proxy images without triggers and with true labels.
    validation: images with true labels, separate from all reported ones.
    ordinary: unlabelled images of the task; their labels are never read.
  """

  retain: Samples | None = None
  forget: Samples | None = None
  proxy: Proxy | None = None
  clean_proxy: Batch | None = None
  validation: Batch | None = None
  ordinary: Samples | None = None


# A repaired network, and facts about its repair.
Result = tuple[Variables, Info]


class Method(NamedTuple):
  """An unlearning method: a repaired network for each point of a grid.

  Attributes:
    needs: the parts of `MethodInputs` that it reads, by name.
    prepare: (key, variables, data) -> a pytree that all points share, such as
      importances or a task vector; None if the points share nothing.
    solve: (key, variables, data, prepared, hyper) -> Result; the info has
      'gradient_evaluations', counted in single images.
    grid: hyperparameters of each point by name; the first point is the default.
    elementwise: whether `solve` is cheap and traceable, so that a whole grid
      may be one program.
    model: the network of the repaired `Variables` if it differs from the input,
      such as a stacked ensemble; None for the same network.
    importances: the `importance.Request` of a method that starts from the
      importances of S_f and of the retain set, which `prepare` then takes as a
      fourth argument; None for other methods.
  """

  needs: tuple[str, ...]
  prepare: Callable[..., Any]
  solve: Callable[..., Result]
  grid: tuple[dict[str, float], ...] = ({},)
  elementwise: bool = False
  model: Model | None = None
  importances: Any = None

  def __call__(
    self, key: PRNGKey, variables: Variables, data: MethodInputs
  ) -> Result:
    """Prepares, then solves the first point of the grid.

    Raises:
      UserError: an argument of another type, or data that the method needs are
        missing or malformed.
    """
    array_checks.check_key(key)
    array_checks.check_type('variables', variables, Variables)
    array_checks.check_inputs(self.needs, data)
    prepared = self.prepare(key, variables, data)
    return self.solve(key, variables, data, prepared, self.grid[0])
