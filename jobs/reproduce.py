"""spark-submit entry point of `concord reproduce`; same arguments."""

import sys

from concord.cli import main

if __name__ == "__main__":
    sys.exit(main(["reproduce", *sys.argv[1:]]))
