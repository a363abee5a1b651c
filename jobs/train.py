"""spark-submit entry point of `concord train`; same arguments."""

import sys

from concord.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
