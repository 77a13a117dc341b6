from dataclasses import asdict

import pytest

from attncourse import machine_code
from attncourse.machine_code import TRIED, compiled

SOURCE = machine_code.kernel_of_chapter()
RECORD = machine_code.table()


def test_the_record_is_of_the_kernel_that_the_chapter_has():
    assert RECORD["source"] == machine_code.digest(SOURCE), (
        "chapter 10's product_kernel has changed: run `python -m attncourse.machine_code`"
    )
    assert [row["job"] for row in RECORD["rows"]] == TRIED


def test_a_kernel_is_compiled_as_recorded():
    triton = pytest.importorskip("triton")
    found, by = compiled(SOURCE, TRIED[:1])
    assert by == f"Triton {triton.__version__}, just now"
    assert found[0].threads == 128 and 16 <= found[0].registers <= 255
    assert "mma" in found[0].products[0] and not found[0].spilled_bytes
    if triton.__version__ == RECORD["triton"]:
        assert asdict(found[0]) == RECORD["rows"][0]["found"]


def test_what_triton_refuses_is_said_in_its_words():
    pytest.importorskip("triton")
    with pytest.raises(RuntimeError, match=r"machine_code\.compiled: .*>= 16"):
        compiled(SOURCE, [{"dtype": "fp16", "BLOCK": 4}])


def test_without_triton_the_record_answers(monkeypatch):
    monkeypatch.setattr(machine_code.importlib.util, "find_spec", lambda name: None)
    found, by = compiled(SOURCE, [TRIED[3], TRIED[0]])
    assert [asdict(one) for one in found] == [RECORD["rows"][i]["found"] for i in (3, 0)]
    assert by == f"Triton {RECORD['triton']}, recorded"
    with pytest.raises(RuntimeError, match="no Triton here"):
        compiled(SOURCE, [{"dtype": "bf16", "BLOCK": 64}])
    with pytest.raises(RuntimeError, match="no Triton here"):
        compiled(SOURCE.replace("start", "begin"), TRIED[:1])


def test_a_record_or_a_dtype_that_is_not_there(tmp_path):
    assert machine_code.table(tmp_path / "compiled.json") is None
    with pytest.raises(ValueError, match="dtype must be one of fp16, bf16, fp32, got None"):
        compiled(SOURCE, [{"BLOCK": 64}])


def test_comments_and_layout_are_no_other_kernel():
    assert machine_code.digest("x = 1  # one") == machine_code.digest("x   =   1")
