"""Where an image lies on Earth."""

from unmix_jax.scenes.scene import Header

__all__ = ["shifted"]


def shifted(header: Header, row: int, column: int) -> Header:
    """The header of the part of an image that begins at this row and column."""
    return header
