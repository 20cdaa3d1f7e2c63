"""`python -m sysbackup`: the same as the `sysbackup` command."""

from sysbackup.cli.main import main

if __name__ == "__main__":
    main()
