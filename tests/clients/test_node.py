"""gRPC's own client for Node: client.js answers what it is asked, here the answers are compared."""

import base64
import json
import pathlib
import subprocess
import unittest

import vectors
from daemon import Daemon

HERE = pathlib.Path(__file__).resolve().parent


class Node(unittest.TestCase):
    def test_it_is_given_the_known_answers_by_call_and_by_stream(self):
        questions = vectors.questions()
        asked = [{"dtype": f"DTYPE_{q.dtype.upper()}", "vocab_size": q.vocab_size,
                  "logits": base64.b64encode(q.logits).decode(),
                  # JavaScript's numbers cannot hold a seed: as text, like the proto's own JSON.
                  "params": [p | {"seed": str(p["seed"])} for p in q.params]} for q in questions]
        with Daemon() as daemon:
            done = subprocess.run(["node", str(HERE / "client.js"), daemon.host], input=json.dumps(asked),
                                  capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        answer = json.loads(done.stdout)
        self.assertEqual(answer["info"]["arithmetic_version"], 2)
        self.assertEqual(answer["refused"]["code"], 3)
        self.assertIn("top_p", answer["refused"]["details"])
        for how in ["unary", "stream"]:
            for question, rows in zip(questions, answer[how], strict=True):
                for params, expected, row in zip(question.params, question.results, rows, strict=True):
                    self.assertEqual(row["status"], "ROW_STATUS_" + expected["status"])
                    if expected["status"] == "OK":
                        self.assertEqual((row["kept"], int(row["kept_mass"])),
                                         (expected["kept"], expected["kept_mass"]))
                        draws = [[d["token"], vectors.bits(d["logprob"])] for d in row["draws"] or [row]]
                        self.assertEqual(draws, expected["draws"], f"{how}: {question.name} under {params}")
