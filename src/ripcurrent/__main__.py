"""``python -m ripcurrent``: the command line."""

from ripcurrent.cli import main

main()
