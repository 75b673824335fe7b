"""Spectra in text tables."""
