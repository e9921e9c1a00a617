"""The command line without its script: ``python -m ensemble.cli``."""

from ensemble.cli.entry import main

main()
