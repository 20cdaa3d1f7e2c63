"""What the linters do not check of the house: modules that can be read in one sitting, and one name for one thing."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import sysbackup

HOUSE = Path(sysbackup.__file__).parent
MODULES = sorted(HOUSE.rglob("*.py"))


def test_no_module_is_over_300_lines() -> None:
    """Beyond that it is two modules."""
    assert MODULES
    long = {path.name: lines for path in MODULES if (lines := len(path.read_text().splitlines())) > 300}
    assert long == {}


def test_no_module_name_occurs_twice() -> None:
    """Whoever hears the name knows which one is meant."""
    names = Counter(path.name for path in MODULES if not path.name.startswith("__"))
    assert [name for name, number in names.items() if number > 1] == []


@pytest.mark.parametrize("module", ["sysbackup.pipeline.examiner_process", "sysbackup.recovery.placing_helper"])
def test_helping_processes_load_little(module: str) -> None:
    """What they would load is paid for by each of them, before anything is examined or restored."""
    heavy = {"asyncio", "structlog", "aiohttp", "botocore"}
    code = f"import sys, {module}; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=HOUSE.parent, capture_output=True, text=True, check=True)
    assert not heavy & {*done.stdout.split()}
