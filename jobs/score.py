"""spark-submit entry point of `concord score`; same arguments."""

import sys

from concord.cli import main

if __name__ == "__main__":
    sys.exit(main(["score", *sys.argv[1:]]))
