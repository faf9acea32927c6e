"""Runs a command as its only child and writes what the kernel says of it: `measured.py FILE COMMAND ...`.

A process of its own, and a small one: Linux counts the memory of the process that starts a command into the command's peak, and
bench.py with its vectors would lift every peak to its own.
"""

import os
import sys

path, *command = sys.argv[1:]
_, status, usage = os.wait4(os.posix_spawnp(command[0], command, os.environ), 0)
with open(path, "w") as file:
    file.write(f"{usage.ru_maxrss / 1024} {usage.ru_utime + usage.ru_stime}")
sys.exit(1 if status else 0)
