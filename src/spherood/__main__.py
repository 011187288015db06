"""`python -m spherood` is the command line."""

from spherood.cli import main

main()
