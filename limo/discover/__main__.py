"""The command `python -m limo.discover`."""

from limo.command import command

command("discover", "limo.discover")
