"""spark-submit entry point of `concord return`; same arguments."""

import sys

from concord.cli import main

if __name__ == "__main__":
    sys.exit(main(["return", *sys.argv[1:]]))
