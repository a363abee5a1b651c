"""spark-submit entry point of `concord study`; same arguments."""

import sys

from concord.cli import main

if __name__ == "__main__":
    sys.exit(main(["study", *sys.argv[1:]]))
