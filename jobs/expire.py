"""spark-submit entry point of `concord expire`; same arguments."""

import sys

from concord.cli import main

if __name__ == "__main__":
    sys.exit(main(["expire", *sys.argv[1:]]))
