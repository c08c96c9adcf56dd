"""The compiled programs of shadow models: their training, and their signals.

Each device has its share of the models and a copy of the data; the devices do
not communicate.
"""

import functools
from collections.abc import Callable
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree, Shaped

from cmu_jax.core import jit, vectorize
from cmu_jax.core.types import Batch, Network, Variables
from cmu_jax.training import segment

Signals = tuple[tuple[str, Callable[..., jax.Array]], ...]
Devices = tuple[jax.Device, ...]

_AXIS = 'models'


def place_on_devices(tree: PyTree, devices: Devices) -> PyTree:
  """Splits arrays over devices along their first axis, the models."""
  if len(devices) == 1:
    return tree
  mesh = Mesh(devices, (_AXIS,))
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(_AXIS)))


def _shard(run: Callable, split: int, devices: Devices) -> Callable:
  """Runs a program on every device; the first `split` arguments are split."""
  if len(devices) == 1:
    return run

  def call(*args: Any) -> Any:
    # Data are copied to each device; models are divided.
    models, copy = PartitionSpec(_AXIS), PartitionSpec()
    specs = (models,) * split + (copy,) * (len(args) - split)
    return jax.shard_map(
      run,
      mesh=Mesh(devices, (_AXIS,)),
      in_specs=specs,
      out_specs=models,
      check_vma=False,
    )(*args)

  return call


def in_blocks(run: Callable, split: int, block: int, threads: int) -> Callable:
  """Runs a program on the blocks of a group, in threads.

  A model is trained by the same program at the same position of its block in
  every group: its bits do not depend on the group.

  Args:
    run: compiled; its first `split` arguments are stacked over models.
    split: see `run`.
    block: number of models in a program; it divides that of the group.
    threads: number of blocks that run concurrently: a single program with
      small networks does not occupy the cores of a CPU.
  """
  compiled: list[bool] = []

  def call(*args: Any) -> Any:
    count = jax.tree.leaves(args[0])[0].shape[0] // block
    if count == 1:
      return run(*args)

    # A new thread has the global setting, not that of the caller's context.
    wide = jax.config.read('jax_enable_x64')

    def run_block(i: int) -> Any:
      models = jax.tree.map(
        lambda x: x[i * block : (i + 1) * block], args[:split]
      )
      with jax.enable_x64(wide):
        return jax.block_until_ready(run(*models, *args[split:]))

    # The first block runs alone: concurrent threads would each compile it.
    outputs = [] if compiled else [run_block(0)]
    compiled.append(True)
    with futures.ThreadPoolExecutor(threads) as pool:
      outputs += pool.map(run_block, range(len(outputs), count))
    return jax.tree.map(lambda *blocks: jnp.concatenate(blocks), *outputs)

  return call


@functools.lru_cache(maxsize=16)
def training_program(
  recipe: segment.SegmentSpec, strategy: vectorize.Strategy, devices: Devices
) -> Callable:
  """(keys, state, rows, batch, start, stop) -> state, jitted.

  Args:
    recipe: the static part of the training.
    strategy: see `vectorize.map_members`.
    devices: devices that share the models; their number divides that of the
      models.

  Returns:
    Steps [start, stop) of all models; it donates the state.
  """

  def run(keys, state, rows, batch, start, stop):
    member = lambda k, s, r: segment.run_segment(
      recipe, k, s, batch, start, stop, r
    )
    return vectorize.map_members(member, strategy)(keys, state, rows)

  return jit.compile_loop(_shard(run, 3, devices), donate_argnums=1)


@functools.lru_cache(maxsize=16)
def statistics_program(
  network: Network,
  signals: Signals,
  size: int,
  strategy: vectorize.Strategy,
  devices: Devices,
) -> Callable:
  """(variables, batch) -> {signal: [k, n]} in evaluation mode, jitted.

  Args:
    network: the model and its input step.
    signals: name and function of (logits, label).
    size: images of a model in memory at once, at most n.
    strategy: as for `training_program`.
    devices: likewise.
  """

  def measure(
    variables: Variables, batch: Batch
  ) -> dict[str, Shaped[Array, 'n']]:
    count = batch.label.shape[0]
    blocks = -(-count // size)
    # The last block repeats the last image: all blocks have the same shape.
    rows = jnp.minimum(jnp.arange(blocks * size), count - 1)

    def block(index):
      logits = network.model.apply(
        variables, network.inputs.eval(batch.image[index], None)
      )
      return {name: fn(logits, batch.label[index]) for name, fn in signals}

    # In blocks: the answers to all images may exceed the memory.
    values = jax.lax.map(block, rows.reshape(blocks, size))
    return jax.tree.map(lambda x: x.reshape(-1)[:count], values)

  def run(variables, batch):
    member = lambda v: measure(v, batch)
    return vectorize.map_members(member, strategy)(variables)

  return jit.compile_loop(_shard(run, 1, devices))
