"""spark-submit entry point of `concord ingest`; same arguments."""

import sys

from concord.cli import main

if __name__ == "__main__":
    sys.exit(main(["ingest", *sys.argv[1:]]))
