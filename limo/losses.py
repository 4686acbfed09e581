"""The command `python -m limo.losses plot`: value, slope and problems of preference losses."""

import sys

from limo.errors import reported
from limo.training.lossplot import main

if __name__ == "__main__":
    with reported():
        main(sys.argv[1:])
