"""Records that a long command goes on with, and files that are none."""

import json

import pytest

from attncourse import resuming

NEW = {"settings": {"seeds": [1, 2]}, "versions": {"torch": "2"}, "runs": {}}


def test_a_record_goes_on_with_what_it_has_and_more_seeds(tmp_path):
    path = tmp_path / "record.json"
    assert resuming.resumed(path, NEW) is NEW
    resuming.write(path, NEW | {"settings": {"seeds": [1]}, "runs": {"a": 1}})
    assert resuming.resumed(path, NEW, grows=("seeds",)) == NEW | {"runs": {"a": 1}}


@pytest.mark.parametrize(
    "text",
    ["", "[]", json.dumps(NEW)[:-3], '{"runs": {}}', json.dumps(NEW | {"settings": []})],
)
def test_what_is_no_whole_record_is_named(tmp_path, text):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(SystemExit, match=r"record.json is no whole record .*: remove it") as error:
        resuming.resumed(path, NEW, grows=("seeds",))
    assert "\n" not in str(error.value) and path.read_text() == text
