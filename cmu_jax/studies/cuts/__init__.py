"""The CUTS study."""
