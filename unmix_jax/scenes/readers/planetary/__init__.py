"""Planetary formats: PDS3, PDS4, ISIS, and the instruments that use them."""
