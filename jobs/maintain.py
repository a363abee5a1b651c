"""spark-submit entry point of `concord maintain`; same arguments."""

import sys

from concord.cli import main

if __name__ == "__main__":
    sys.exit(main(["maintain", *sys.argv[1:]]))
