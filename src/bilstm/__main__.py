"""`python -m bilstm`."""

import sys

from bilstm.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
