# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Membership audits
#
# "Forgotten" is a claim. A membership attack tests it: does the network treat
# these images like its training images? Strong attacks compare it with
# reference networks, each trained on half of the images. Here one call trains
# all K networks, in one compiled program.
#
# The data are the handwritten digits of scikit-learn. The notebook downloads
# nothing and takes a minute on a CPU.

# %%
# %pip install --quiet cmu_jax matplotlib

# %%
import matplotlib.pyplot as plt
import numpy as np

import cmu_jax
from cmu_jax import audits, networks
from cmu_jax.audits import shadow
from cmu_jax.core import rng
from cmu_jax.data import input_step, splits
from cmu_jax.training import optimizers

STEPS = 1000  # of each training; 40 show that everything runs
REFERENCES = 32

# %% [markdown]
# ## A network, and 32 like it
#
# Row 0 of `inside` is the network under audit: it saw half of 800 images. The
# other rows are the references. Each image is in half of all networks.

# %%
digits = cmu_jax.data.load('digits')
points, _ = splits.hold_out(
  rng.fold_in(0, 'points'), digits.train, 800 / len(digits.train.label), 10
)
count = len(points.label)
pixels = input_step.make(mean=(0.3,), std=(0.35,))
model = networks.make('fc', 10, (8, 8, 1), width=64)
fit = shadow.ShadowTraining(
  pixels,
  optimizers.adamw(optimizers.constant_schedule(1e-3)),
  steps=STEPS,
  batch_size=64,
)
inside = shadow.assign_halves(rng.fold_in(0, 'halves'), REFERENCES + 2, count)
shadows = shadow.train(rng.fold_in(0, 'train'), model, points, inside, fit)
print({name: table.shape for name, table in shadows.statistics.items()})

# %% [markdown]
# ## Three attacks on network 0
#
# Plain confidence needs no references. LiRA and RMIA do: they ask how unusual
# this confidence is for this very image.

# %%
member = inside[0]
softmax = shadows.statistics['softmax']
logit = shadows.statistics['logit_confidence']
references, halves = slice(2, None), inside[2:]  # 1 has the other half

attacks = {
  'confidence': logit[0],
  'LiRA': audits.lira(logit[0], logit[references], halves),
  'RMIA': audits.rmia(softmax[0], softmax[references], halves, ~member).score,
}
# Of several attacks one succeeds by chance more often: the rule knows how many.
rule = audits.DecisionRule(attacks=len(attacks))
for name, score in attacks.items():
  verdict = audits.evaluate(
    rng.fold_in(0, name),
    score[member],
    score[~member],
    references=REFERENCES,
    rule=rule,
  )
  print(f'{name}: {verdict.says}')

# %%
figure, axis = plt.subplots(figsize=(4.5, 4.5))
for name, score in attacks.items():
  curve = audits.roc(score[member], score[~member])
  axis.plot(curve.fpr, curve.tpr, label=name)
axis.plot([0, 1], [0, 1], color='0.7', linestyle=':')
axis.set(xlabel='non-members taken for members', ylabel='members found')
axis.legend()
# %% [markdown]
# ## The limits of an audit
#
# With few images the interval is wide and the audit has no answer: that is not
# the same as "forgotten".

# %%
few = np.flatnonzero(member)[:20], np.flatnonzero(~member)[:20]
score = attacks['RMIA']
verdict = audits.evaluate(rng.fold_in(0, 'few'), score[few[0]], score[few[1]])
print(verdict.says)
print(f'20 against 20 images show an AUC from {verdict.detectable:.2f} on')

# %% [markdown]
# ## From files
#
# `python -m cmu_jax audit --help` does this for logits in an `.npz`, and trains
# the references itself where you give it weights and images.
# `python -m cmu_jax unlearn` makes a network forget and audits it.
