"""What is installed: the lock has every requirement at its version, for every platform, and names no place."""

import re
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from brainvis.files import ROOT


def lines(name: str) -> list[Requirement]:
    text = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in text if line and not line.lstrip().startswith("#")]


def test_the_lock_has_every_requirement_at_its_version():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    locked = {(canonicalize_name(entry.name), str(entry.specifier)) for entry in lines("requirements.lock")}
    wanted = [*lines("requirements.txt"), *map(Requirement, extras["test"])]
    missing = [str(entry) for entry in wanted if (canonicalize_name(entry.name), str(entry.specifier)) not in locked]
    assert not missing, f"requirements.lock is older than {missing}: make lock"


def test_all_that_is_locked_is_one_version_from_wherever_a_person_installs():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert all(re.fullmatch(r"==[^,*]+", str(entry.specifier)) for entry in lines("requirements.lock"))
    assert "://" not in text and "--" not in re.sub(r"^#.*$", "", text, flags=re.M)
    assert any("linux" in str(entry.marker) for entry in lines("requirements.lock") if entry.name.startswith("nvidia"))
