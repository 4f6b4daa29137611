"""``python -m benchmarks.serving`` is ``songstarter bench``."""

import sys

from songstarter.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
