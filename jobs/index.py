"""spark-submit entry point of `concord index`; same arguments."""

import sys

from concord.cli import main

if __name__ == "__main__":
    sys.exit(main(["index", *sys.argv[1:]]))
