"""Runs commands of `tppsd` one after the other where no file may be larger than so many bytes.

Usage: python small_files.py BYTES JSON, where JSON lists command lines; prints a JSON list of exit status and stderr.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import signal
import sys
import traceback

from tppsd import cli

most, lines = int(sys.argv[1]), json.loads(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write that is too large fails, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
found = []
for line in lines:
    output, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(said):
        try:
            status = cli.main(line)
        except Exception:
            traceback.print_exc()
            status = 1
    found.append([status, said.getvalue()])
print(json.dumps(found))
