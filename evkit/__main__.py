"""`python -m evkit`: the same as the `evkit` command."""

from evkit.cli import main

main()
