"""`python -m captum_tracinwe` is the command `captum-tracinwe`."""

import sys

from captum_tracinwe.app.cli import main

if __name__ == "__main__":
    sys.exit(main())
