"""The command `python -m eval.report`."""

from limo.command import command

command("report", "eval.report")
