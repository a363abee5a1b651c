"""spark-submit entry point of `concord model promote`; same arguments."""

import sys

from concord.cli import main

if __name__ == "__main__":
    sys.exit(main(["model", "promote", *sys.argv[1:]]))
