"""spark-submit entry point of `concord catalog`; same arguments."""

import sys

from concord.cli import main

if __name__ == "__main__":
    sys.exit(main(["catalog", *sys.argv[1:]]))
