"""``python -m unmix_jax`` is ``unmix-jax``."""

import sys

from unmix_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
