#!/usr/bin/env python3
"""Packs a few rows of recorded logits, and the text of every token, into this folder.

    assets/make.py FOLDER ROW...

FOLDER holds one f16 .npy of [rows, vocab_size], meta.json (`model`, and for each row `kind` and
`context`) and tokens.json (the text of every token, by id). The rows carried were packed with
`4 1 53 24 56 60 49 44`.
"""

import ast
import json
import pathlib
import sys
import zlib

here = pathlib.Path(__file__).parent


def compress(data: bytes, name: str, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> None:
    gzip = zlib.compressobj(9, zlib.DEFLATED, 31, 9, strategy)
    (here / name).write_bytes(gzip.compress(data) + gzip.flush())


def read_rows(path: pathlib.Path, rows: list[int]) -> list[bytes]:
    with path.open("rb") as file:
        assert file.read(8) == b"\x93NUMPY\x01\x00", "a .npy of version 1"
        header = ast.literal_eval(file.read(int.from_bytes(file.read(2), "little")).decode())
        assert header["descr"] == "<f2" and not header["fortran_order"], header
        start, size = file.tell(), 2 * header["shape"][1]
        return [file.seek(start + row * size) and file.read(size) for row in rows]


folder, rows = pathlib.Path(sys.argv[1]), [int(row) for row in sys.argv[2:]]
meta = json.loads((folder / "meta.json").read_text())
logits = read_rows(next(folder.glob("*.npy")), rows)
tokens = json.loads((folder / "tokens.json").read_text())

# Each row as its upper bytes, then its lower ones: few upper ones are frequent, the lower ones are noise.
compress(b"".join(row[1::2] + row[0::2] for row in logits), "rows.gz", zlib.Z_HUFFMAN_ONLY)
compress(json.dumps(tokens, ensure_ascii=False, separators=(",", ":")).encode(), "tokens.json.gz")

about = {
    "model": meta["model"],
    "vocab_size": meta["vocab_size"],
    "rows": [{key: meta["rows"][row][key] for key in ("kind", "context")} for row in rows],
}
text = json.dumps(about, ensure_ascii=False, indent=2)
(here / "rows.json").write_text(text + "\n")
