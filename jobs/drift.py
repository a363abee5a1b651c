"""spark-submit entry point of `concord drift`; same arguments."""

import sys

from concord.cli import main

if __name__ == "__main__":
    sys.exit(main(["drift", *sys.argv[1:]]))
