"""The command `bilstm`: verbs, each a thin call into the library.

Data goes to standard output, everything else to standard error. With `--json` a verb prints one JSON object and nothing
else, for errors too. Exit codes: 0 done, 2 usage, 65 bad data or model folder, 66 no input, 69 missing extra,
70 training diverged, 71 not enough memory, 73 output cannot be created, 74 writing failed, 130 Ctrl-C.
"""

from bilstm.cli.app import main

__all__ = ["main"]
