"""Where settings come from, and the errors for wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerchat.system.settings import Settings, descriptions, load_settings
from steerchat.values.errors import UnknownName, UsageError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def test_the_command_line_goes_before_the_environment_before_the_file_before_the_default(file: Path):
    file.write_text('seed = 1\ntop-p = 0.5\nview = "steered"\n')
    environment = {"STEERCHAT_SEED": "2", "STEERCHAT_TOP_P": "0.6", "STEERCHAT_HOME": "/tmp", "PATH": "/bin"}
    settings = load_settings({"seed": "3", "model": None}, file, environment)
    assert (settings.seed, settings.top_p, settings.view, settings.temperature) == (3, 0.6, "steered", 0.7)
    sources = {name: source for name, _, source in settings.items()}
    assert sources["seed"] == "command line" and sources["top-p"] == "environment"
    assert sources["view"] == str(file) and sources["model"] == "default"


def test_a_missing_file_is_no_file(file: Path):
    assert load_settings({}, file, {}) == Settings()


@pytest.mark.parametrize(
    ("text", "environment", "message", "hint"),
    [
        ("temprature = 1", {}, "no setting called 'temprature'", "did you mean temperature?"),
        ("", {"STEERCHAT_SEDE": "1"}, "environment: no setting called 'sede'", "did you mean seed?"),
        ("temperature = 9", {}, "temperature is a number from 0 to 5, not '9'", ""),
        ("temperature = nan", {}, "temperature is a number from 0 to 5, not 'nan'", ""),
        ("max-tokens = 1.5", {}, "max-tokens is a whole number from 1 to 100000, not '1.5'", ""),
        ('carry = "both"', {}, "no value of carry called 'both'", "own, steered, normal"),
        ('model = ""', {}, "model is empty", ""),
        ("seed = ", {}, "cannot be read", "correct the file"),
        ("[seed]\nvalue = 1", {}, "seed is a whole number", ""),
    ],
)
def test_a_wrong_setting_is_named_with_its_place(
    file: Path, text: str, environment: dict[str, str], message: str, hint: str
):
    file.write_text(text)
    with pytest.raises(UsageError) as raised:
        load_settings({}, file, environment)
    assert message in raised.value.message and hint in raised.value.hint
    assert raised.value.message.startswith(("environment", str(file)))


def test_a_change_that_fails_leaves_the_value_and_its_source():
    settings = Settings()
    with pytest.raises(UsageError):
        settings.change("top-p", "2")
    with pytest.raises(UnknownName):
        settings.change("top_k", "2")
    assert settings == Settings()


def test_every_setting_has_a_meaning_and_takes_its_own_default():
    for name, description in descriptions().items():
        assert description.help and "_" not in name
        assert description.parse(description.default) == description.default
