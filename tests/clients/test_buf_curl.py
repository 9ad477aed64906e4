"""`buf curl`, which knows nothing but what the server tells by reflection: the commands of the README."""

import base64
import json
import re
import subprocess
import unittest
from pathlib import Path

import vectors
from daemon import Daemon


class BufCurl(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = cls.enterClassContext(Daemon())

    def ask(self, method: str, data: dict) -> subprocess.CompletedProcess:
        url = f"http://{self.daemon.host}/logitd.v1.SamplerService/{method}"
        return subprocess.run(["buf", "curl", "--protocol", "grpc", "--http2-prior-knowledge", "-d",
                               json.dumps(data), url], capture_output=True, text=True, timeout=60)

    def test_info(self):
        done = self.ask("GetInfo", {})
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["arithmeticVersion"], 2)

    def test_sample(self):
        question = next(q for q in vectors.questions() if q.dtype == "f16" and q.results[0]["status"] == "OK")
        done = self.ask("Sample", {"dtype": "DTYPE_F16", "vocabSize": question.vocab_size,
                                   "logits": base64.b64encode(question.row_bytes).decode(),
                                   "params": [question.params[0]]})
        self.assertEqual(done.returncode, 0, done.stderr)
        row = json.loads(done.stdout)["rows"][0]
        expected = question.results[0]
        self.assertEqual(int(row["keptMass"]), expected["kept_mass"])
        self.assertEqual([row.get("token", 0), vectors.bits(float(row.get("logprob", 0)))], expected["draws"][0])

    def test_commands_of_the_readme_print_what_it_says(self):
        text = (Path(__file__).parents[2] / "README.md").read_text()
        blocks = re.findall(r"SamplerService/(\w+) -d '(\{.*?\})'\n```\n\n```json\n(.*?)```", text, re.DOTALL)
        self.assertEqual([method for method, _, _ in blocks], ["Sample", "Verify", "BeamStep", "Evaluate"])
        for method, data, said in blocks:
            done = self.ask(method, json.loads(data))
            self.assertEqual(done.returncode, 0, done.stderr)
            answer = json.loads(done.stdout)
            answer.pop("timings")
            self.assertEqual(answer, json.loads(said))

    def test_an_error_reads_well(self):
        done = self.ask("Sample", {"dtype": "DTYPE_F16", "vocabSize": 2, "logits": "AAAAAA==",
                                   "params": [{"temperature": -1}]})
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("invalid_argument", done.stderr)
        self.assertIn("params[0].temperature", done.stderr)
