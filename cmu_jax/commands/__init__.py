"""Commands of the package: python -m cmu_jax repair|unlearn|audit|study."""
