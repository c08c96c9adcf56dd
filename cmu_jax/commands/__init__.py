"""Commands: python -m cmu_jax find|repair|unlearn|audit|study."""
