"""A framework that is missing or too old is a sentence with the command that mends it."""

import pytest

from impsamp.integrations import frameworks
from impsamp.integrations.frameworks import (
    OLDEST,
    MissingFramework,
    is_older,
    require_framework,
)


@pytest.mark.parametrize("name", sorted(OLDEST))
def test_a_missing_framework_names_its_command(monkeypatch, name):
    monkeypatch.setattr(frameworks, "find_spec", lambda name: None)
    words = rf"{name} cannot be imported: pip install '{name}>={OLDEST[name]}'.*impsamp\[integ"
    with pytest.raises(MissingFramework, match=words) as e:
        require_framework(name)
    assert isinstance(e.value, ImportError)


def test_an_old_framework_names_its_version(monkeypatch):
    monkeypatch.setattr(frameworks, "find_spec", lambda name: name)
    monkeypatch.setattr(frameworks.metadata, "version", lambda name: "1.9.5")
    with pytest.raises(MissingFramework, match=r"lightning 1\.9\.5 is too old: pip install"):
        require_framework("lightning")


def test_a_checkout_without_a_version_is_taken_as_it_is(monkeypatch):
    def unknown(name):
        raise frameworks.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(frameworks, "find_spec", lambda name: name)
    monkeypatch.setattr(frameworks.metadata, "version", unknown)
    require_framework("lightning")


@pytest.mark.parametrize(
    ("version", "than", "older"),
    [
        ("2.4.1", "2.10", True),
        ("2.10", "2.4.1", False),
        ("0.11.0+cpu", "0.11", False),
        ("5.0.0rc1", "5.0", False),
        ("4", "4.1", True),
    ],
)
def test_versions_are_compared_by_their_numbers(version, than, older):
    assert is_older(version, than) is older
