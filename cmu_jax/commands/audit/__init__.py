"""Membership audits as a command: python -m cmu_jax audit --help."""
