# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Repair a corrupted classifier
#
# A classifier was trained on labels of which 40 % were wrong. The training data
# are gone. The weights and a few images without careful labels are left. CUTS
# ([arXiv 2511.18660](https://arxiv.org/abs/2511.18660)) corrupts these few on
# purpose, fine-tunes on them, and moves the weights the opposite way.
#
# The data are the handwritten digits of scikit-learn. The notebook downloads
# nothing and takes a minute on a CPU.

# %%
# %pip install --quiet cmu_jax matplotlib

# %%
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import cmu_jax
from cmu_jax import networks
from cmu_jax.core import rng, tree
from cmu_jax.core.types import MethodInputs, Network, Training
from cmu_jax.data import corruption, input_step, proxy_sets, splits
from cmu_jax.training import metrics, optimizers

STEPS = 3000  # of the training; 300 show that everything runs
SEED = 0

# %% [markdown]
# ## The shipped network
#
# A tenth of the images is set aside before anything is corrupted: the proxy.
# The rest gets its wrong labels and trains the network.

# %%
digits = cmu_jax.data.load('digits')
pool, train = splits.hold_out(rng.fold_in(SEED, 'pool'), digits.train, 0.1, 10)
noise = corruption.symmetric(rng.fold_in(SEED, 'noise'), train.label, 0.4, 10)
print('wrong labels:', int(noise.mask.sum()), 'of', len(train.label))

pixels = input_step.make(mean=(0.3,), std=(0.35,))
model = networks.make('fc', 10, (8, 8, 1), width=512)
network = Network(model, pixels)
adam = optimizers.adamw(optimizers.constant_schedule(1e-3))
shipped = cmu_jax.fit(
  rng.fold_in(SEED, 'train'),
  network,
  model.init(rng.fold_in(SEED, 'init'), pixels.eval(train.image[:1])),
  corruption.apply(noise, train),
  Training(adam, STEPS, batch_size=64),
).variables


# %%
def confusion(variables):
  predicted = metrics.predict(network, variables, digits.test)
  return metrics.confusion(np.asarray(digits.test.label), predicted, 10)


print('accuracy as shipped:', metrics.accuracy(confusion(shipped)))

# %% [markdown]
# ## The repair
#
# `proxy` holds images and labels that were drawn at random: no correct label is
# used, neither for the task vector nor for its length.

# %%
proxy = proxy_sets.make_proxy(
  rng.fold_in(SEED, 'proxy'), 'symmetric', pool, 2, 10
)
repair = cmu_jax.cuts(network, Training(adam, STEPS // 10, batch_size=64))
repaired, info = repair(
  rng.fold_in(SEED, 'cuts'), shipped, MethodInputs(proxy=proxy)
)
print('alpha', info['alpha'], 'accuracy', metrics.accuracy(confusion(repaired)))

# %% [markdown]
# The length of the step, alpha, maximises J: the agreement of near neighbours
# beyond chance, minus a penalty for classes without predictions. Grey is the
# test accuracy, which the rule does not see.

# %%
alphas = np.arange(0, 2.01, 0.1)
test = pixels.eval(digits.test.image)
hits = cmu_jax.curve(
  model,
  shipped,
  info['tau'],
  test,
  jnp.asarray(alphas),
  lambda features, logits: (
    (logits.argmax(-1) == digits.test.label).astype(jnp.float32).mean()
  ),
)

curve = info['curve']
figure, axis = plt.subplots(figsize=(6, 3.5))
axis.plot(curve['alpha'], curve['J'], label='J, from the proxy')
axis.plot(alphas, np.asarray(hits), color='0.6', label='test accuracy')
axis.axvline(info['alpha'], linestyle=':', color='k')
axis.set(xlim=(0, 2), xlabel='alpha', ylim=(0, 1))
axis.legend()
# %% [markdown]
# ## Harm by class
#
# An average may hide a class that got worse. Check the classes before you trust
# a repair:

# %%
before, after = (
  np.asarray(metrics.class_accuracy(confusion(v))) for v in (shipped, repaired)
)
for name, old, new in zip(digits.class_names, before, after, strict=True):
  mark = '  <-- worse' if new < old - 0.05 else ''
  print(f'{name}: {old:.2f} -> {new:.2f}', mark)

# %% [markdown]
# ## The control: a random direction
#
# It has the norm of the task vector in every tensor.

# %%
control = tree.random_like(rng.fold_in(SEED, 'random'), info['tau'])
edited = shipped._replace(
  params=cmu_jax.edit(shipped.params, control, info['alpha'])
)
print('random direction:', metrics.accuracy(confusion(edited)))

# %% [markdown]
# ## The same in one call
#
# `cmu_jax.repair` takes a network, bad samples and their wrong labels as
# arrays. It edits only if held-out samples confirm that the edit helps, and
# says why. With `test=` it also measures the cost, and with
# `labels_are='true'` it takes true labels and draws the wrong ones itself.

# %%
result = cmu_jax.repair(
  network, pool.image, proxy.label[0], variables=shipped, seed=SEED
)
print(*result.sentences, sep='\n')
print(
  *('edited' if result.repaired else 'left as it was', 'alpha', result.alpha),
  *('accuracy', metrics.accuracy(confusion(result.variables))),
)

# %% [markdown]
# ## Your own network
#
# Any pytree of parameters will do: Flax linen and NNX, Equinox, Haiku. Two
# functions, features and head, make it a `model`; see `docs/any_network.md`.
# From files, `python -m cmu_jax repair --help` does all of this. It abstains if
# the gain is not significant, and writes a report.
