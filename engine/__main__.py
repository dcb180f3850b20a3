"""`python -m trivium.engine train ...`, which is also what torchrun starts."""

import sys

from trivium.engine.cli import main

if __name__ == "__main__":
    sys.exit(main())
