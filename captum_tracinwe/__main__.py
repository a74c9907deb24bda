"""`python -m captum_tracinwe` is the command `captum-tracinwe`."""

import sys

from captum_tracinwe.cli import main

if __name__ == "__main__":
    sys.exit(main())
