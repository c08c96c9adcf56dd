"""Attacks, spectral norms and Lipschitz bounds."""
