"""spark-submit entry point of `concord synthesize`; same arguments."""

import sys

from concord.cli import main

if __name__ == "__main__":
    sys.exit(main(["synthesize", *sys.argv[1:]]))
