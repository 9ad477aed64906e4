"""The known answers of tests/vectors/rows.json as requests: one a row, one set of parameters a case."""

import json
import pathlib
import struct

PATH = pathlib.Path(__file__).resolve().parent.parent / "vectors" / "rows.json"
SIZE = {"f16": 2, "bf16": 2, "f32": 4}


class Question:
    """A row of the file, repeated for each of its cases."""

    def __init__(self, row: dict, cases: list[dict]):
        self.name, self.dtype = row["name"], row["dtype"]
        # Bit patterns, most significant digit first; the wire is little-endian.
        digits = 2 * SIZE[self.dtype]
        patterns = [int(row["bits"][i:i + digits], 16) for i in range(0, len(row["bits"]), digits)]
        self.vocab_size = len(patterns)
        self.row_bytes = struct.pack(f"<{len(patterns)}{'H' if digits == 4 else 'I'}", *patterns)
        self.params = [case["params"] for case in cases]
        self.results = [case["result"] for case in cases]
        self.logits = self.row_bytes * len(cases)


def questions() -> list[Question]:
    """Every row that has cases."""
    file = json.loads(PATH.read_text())
    found = []
    for index, row in enumerate(file["rows"]):
        cases = [case for case in file["cases"] if case["row"] == index]
        if cases:
            found.append(Question(row, cases))
    assert len(found) > 40 and sum(len(q.params) for q in found) > 500, "the file has shrunk"
    return found


def bits(value: float) -> str:
    """An f32's pattern, as the file writes it."""
    return f"{struct.unpack('<I', struct.pack('<f', value))[0]:08x}"


def plain(result) -> dict:
    """A RowResult of the API in the form of the file."""
    status = type(result).DESCRIPTOR.fields_by_name["status"].enum_type.values_by_number[result.status]
    name = status.name.removeprefix("ROW_STATUS_")
    if name != "OK":
        assert not result.HasField("token") and not result.HasField("logprob"), result
        return {"status": name}
    # With one draw there is no list, and the first draw always stands in `token`.
    draws = [[d.token, bits(d.logprob)] for d in result.draws] or [[result.token, bits(result.logprob)]]
    assert draws[0] == [result.token, bits(result.logprob)], result
    return {"status": name, "kept": result.kept, "kept_mass": result.kept_mass, "draws": draws}
