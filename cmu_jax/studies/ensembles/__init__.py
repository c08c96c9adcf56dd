"""Ensembles whose members do not share adversarial images: LOTOS and TRS."""
