"""What the linters do not check of the house: modules that can be read in one sitting, and one name for one thing."""

from collections import Counter
from pathlib import Path

import sysbackup

MODULES = sorted(Path(sysbackup.__file__).parent.rglob("*.py"))


def test_no_module_is_over_300_lines() -> None:
    """Beyond that it is two modules."""
    assert MODULES
    long = {path.name: lines for path in MODULES if (lines := len(path.read_text().splitlines())) > 300}
    assert long == {}


def test_no_module_name_occurs_twice() -> None:
    """Whoever hears the name knows which one is meant."""
    names = Counter(path.name for path in MODULES if not path.name.startswith("__"))
    assert [name for name, number in names.items() if number > 1] == []
