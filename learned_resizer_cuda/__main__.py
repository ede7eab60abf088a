"""`python -m learned_resizer_cuda`: the command line of `learned-resizer`."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
