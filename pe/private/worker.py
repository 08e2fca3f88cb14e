"""A process that counts: reads tasks of ``pe.private.scan`` as JSON, answers each with one line, says nothing else."""

from __future__ import annotations

import json
import sys


def main() -> None:
    """Work until the input ends, as it does when the parent dies."""
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        error = None
        try:
            from pe.errors import PEError
            from pe.private.scan import perform
        except ImportError as missing:
            told = f"a worker lacks the package {missing.name}: it needs what this process has. What was charged stays "
            error = ["PrivateDataError", told + "charged."]
        else:
            try:
                perform(*json.loads(line))
            except PEError as failure:
                error = [type(failure).__name__, str(failure)]
        print(json.dumps(error), file=answers, flush=True)


if __name__ == "__main__":
    main()
