"""The example that has Gemma write JSON: what it writes is of the schema, with either grammar engine."""

import json
import pathlib
import sys

import pytest

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (CI_LONG=1 installs it)")

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "examples"))


@pytest.mark.filterwarnings("ignore:llama_token_get_attr is deprecated")
@pytest.mark.parametrize("grammar", ["llguidance", "xgrammar"])
def test_gemma_writes_json_of_the_schema(grammar: str, gguf: pathlib.Path) -> None:
    pytest.importorskip(grammar, reason=f"{grammar} is not installed (CI_LONG=1 installs it)")
    import json_from_gemma

    llama = llama_cpp.Llama(str(gguf), n_ctx=512, n_threads=1, n_threads_batch=1, verbose=False)
    texts = [json_from_gemma.write(llama, grammar, seed=seed, temperature=1.0, top_p=0.95) for seed in [7, 7, 8]]
    print(*texts, sep="\n")
    assert texts[0] == texts[1] != texts[2]
    for text in texts:
        written = json.loads(text)
        assert written.keys() == json_from_gemma.SCHEMA["properties"].keys()
        assert 1 <= written["age"] <= 120 and isinstance(written["alive"], bool) and isinstance(written["name"], str)
        assert len(written["skills"]) == 3 and set(written["skills"]) <= {"sword", "sail", "cook", "sing", "read"}
    llama.close()
