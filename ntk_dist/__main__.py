"""``python -m ntk_dist`` is the command line."""

from ntk_dist.cli import main

main()
