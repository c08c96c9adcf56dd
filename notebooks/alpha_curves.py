# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Whole curves and sweeps as one program
#
# Task arithmetic is `theta - alpha * tau`: a `tree_map`. A whole search over
# alpha, over a coefficient for every layer, or over seeds is therefore one
# compiled program on data that stay on the device. This notebook composes the
# pure functions. It downloads nothing and takes a minute on a CPU.

# %%
# %pip install --quiet cmu_jax matplotlib

# %%
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import cmu_jax
from cmu_jax import networks
from cmu_jax.core import rng, tree, vectorize
from cmu_jax.core.types import Network, Training, Variables
from cmu_jax.data import corruption, input_step, proxy_sets, splits
from cmu_jax.training import optimizers

STEPS = 3000  # of the training; 300 show that everything runs
SEEDS = 3
POINTS = 21  # of each coefficient, in the map at the end

# %% [markdown]
# ## Three corrupted networks, trained together
#
# `fit` takes stacked variables, batches and keys: the seeds are one program.

# %%
digits = cmu_jax.data.load('digits')
pixels = input_step.make(mean=(0.3,), std=(0.35,))
model = networks.make('fc', 10, (8, 8, 1), width=128)
network = Network(model, pixels)
adam = optimizers.adamw(optimizers.constant_schedule(1e-3))


def corrupt(seed):
  """Returns proxy images, and training data with 40 % wrong labels."""
  pool, train = splits.hold_out(
    rng.fold_in(seed, 'pool'), digits.train, 0.1, 10
  )
  noise = corruption.symmetric(rng.fold_in(seed, 'noise'), train.label, 0.4, 10)
  return pool, corruption.apply(noise, train)


pools, trains = zip(*map(corrupt, range(SEEDS)), strict=True)
starts = [
  model.init(rng.fold_in(seed, 'init'), pixels.eval(digits.train.image[:1]))
  for seed in range(SEEDS)
]
shipped = cmu_jax.fit(
  jnp.stack([rng.fold_in(seed, 'train') for seed in range(SEEDS)]),
  network,
  tree.stack(starts),
  tree.stack(trains),
  Training(adam, STEPS, batch_size=64),
  strategy=vectorize.default_strategy(starts[0].params),
).variables

# %% [markdown]
# ## Their task vectors

# %%
taus = []
for seed in range(SEEDS):
  proxy = proxy_sets.make_proxy(
    rng.fold_in(seed, 'proxy'), 'symmetric', pools[seed], 2, 10
  )
  tau, _ = cmu_jax.direction(
    rng.fold_in(seed, 'cuts'),
    network,
    tree.index(shipped, seed),
    proxy,
    Training(adam, STEPS // 10, batch_size=64),
  )
  taus.append(tau)

# %% [markdown]
# ## A hundred alphas, one call
#
# `measure` is any function of features and logits. The program is compiled
# once and reused for other weights and vectors of the same shape.

# %%
image, label = pixels.eval(digits.test.image), digits.test.label
alphas = jnp.linspace(0, 2, 101)


def accuracy(features, logits):
  return (logits.argmax(-1) == label).astype(jnp.float32).mean()


for seed in range(SEEDS):
  began = time.perf_counter()
  accuracies = cmu_jax.curve(
    model,
    tree.index(shipped, seed),
    taus[seed],
    image,
    alphas,
    accuracy,
  ).block_until_ready()
  seconds = time.perf_counter() - began
  best = float(alphas[accuracies.argmax()])
  print(f'seed {seed}: {seconds:.2f} s, best alpha {best:.2f},', end=' ')
  print(f'accuracy {accuracies.max():.3f}')
  plt.plot(alphas, accuracies, label=f'seed {seed}')
plt.xlabel('alpha')
plt.ylabel('test accuracy')
plt.legend()
# %% [markdown]
# ## A coefficient for each layer
#
# The same idea with two coefficients, one for the hidden layer and one for the
# head: `vmap` over a grid of pairs. (On a CPU convolutional networks want
# `vectorize.map_members`, which picks `lax.map` there.)

# %%
network, tau = tree.index(shipped, 0), taus[0]
print('parts of the network:', sorted(network.params))


def at(hidden, head):
  scale = {name: hidden for name in network.params} | {'head': head}
  params = {
    name: cmu_jax.edit(network.params[name], tau[name], scale[name])
    for name in network.params
  }
  logits = model.apply(Variables(params, network.batch_stats), image)
  return accuracy(None, logits)


axis = jnp.linspace(0, 2, POINTS)
grid = jax.jit(jax.vmap(jax.vmap(at, (None, 0)), (0, None)))(axis, axis)
plt.figure(figsize=(4.5, 3.6))
plt.contourf(np.asarray(axis), np.asarray(axis), np.asarray(grid), 20)
plt.colorbar(label='test accuracy')
plt.xlabel('alpha of the head')
plt.ylabel('alpha of the hidden layer')
i, j = np.unravel_index(int(grid.argmax()), grid.shape)
print(
  f'best {float(grid.max()):.3f} at hidden {float(axis[i]):.1f},',
  f'head {float(axis[j]):.1f}; on the diagonal {jnp.diag(grid).max():.3f}',
)

# %% [markdown]
# Test labels chose the best points: they are a diagnosis, not a rule.
# Rules that see the proxy only are in `cmu_jax.methods.cuts.alpha_rules` and,
# with intervals and abstention, in `cmu_jax.methods.cuts.cross_fitting`.
