"""spark-submit entry point of `concord rotate`; same arguments."""

import sys

from concord.cli import main

if __name__ == "__main__":
    sys.exit(main(["rotate", *sys.argv[1:]]))
