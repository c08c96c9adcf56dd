"""Methods against backdoors."""
