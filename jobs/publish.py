"""spark-submit entry point of `concord publish`; same arguments."""

import sys

from concord.cli import main

if __name__ == "__main__":
    sys.exit(main(["publish", *sys.argv[1:]]))
