"""spark-submit entry point of `concord outcomes`; same arguments."""

import sys

from concord.cli import main

if __name__ == "__main__":
    sys.exit(main(["outcomes", *sys.argv[1:]]))
