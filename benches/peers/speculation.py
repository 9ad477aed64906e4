"""Times speculative decoding and a step of beams as transformers does them, beside `logitd bench`, one thread.

    pip install numpy torch transformers
    python benches/peers/speculation.py --logits ROWS.npy --logitd target/release/logitd    # f16 [rows, vocab]

Prints one JSON object a line, as `cpu.py` does: the median of some passes in microseconds a row. A sequence has four drafts and five
rows. The drafter's rows are the target's with noise of deviation 0.5, as in `logitd bench`; its drafts are drawn from them. Each side
starts from rows of f16 and ends with the tokens that a sequence goes on with. transformers runs the processors of `generate` over the
target's rows (those of the drafter have been run when the drafts were drawn, and are given as they are), then `_speculative_sampling`, which takes one
sequence at a time; a step of beams is `log_softmax`, the running scores added, and the first 128 of
all 64 rows together, where logitd is timed at finding 128 of each row, whose merge is not in its time.
"""

import argparse
import json
import statistics
import subprocess
import time

import numpy as np
import torch
import transformers
from transformers.generation import logits_process as processors
from transformers.generation.utils import _speculative_sampling

SEQUENCES, DRAFTS, VOCAB_SIZE, PASSES = 16, 4, 128_256, 3
DEVIATION, CONTINUATIONS = 0.5, 128
# By the names of `logitd bench`: top_p, and whether the drafter has rows.
CASES = {
    "verify_rejection": (0.95, False),
    "verify_rejection_rows": (0.95, True),
    "verify_temperature": (1.0, False),
    "verify_temperature_rows": (1.0, True),
}


def chain(top_p):
    made = processors.LogitsProcessorList([processors.TemperatureLogitsWarper(0.8)])
    if top_p < 1:
        made.append(processors.TopPLogitsWarper(top_p))
    return made


def drafted(rows, process, has_rows, random):
    """A sequence's drafts, and the logits that they were drawn from, processed."""
    target = torch.from_numpy(rows[:DRAFTS]).float()
    drafter = process(None, target + DEVIATION * torch.randn(target.shape, generator=random))
    drafts = torch.multinomial(drafter.softmax(-1), 1, generator=random).T
    if not has_rows:
        # All of its probability on the draft.
        drafter = torch.full_like(drafter, -torch.inf).scatter_(1, drafts.T, 0.0)
    return drafts, drafter[None]


@torch.inference_mode()
def time_verify(rows, top_p, has_rows):
    process, random = chain(top_p), torch.Generator().manual_seed(1)
    each = DRAFTS + 1
    sequences = [rows[i * each : (i + 1) * each] for i in range(SEQUENCES)]
    drafts = [drafted(sequence, process, has_rows, random) for sequence in sequences]
    times, taken = [], 0
    for _ in range(PASSES):
        begun = time.perf_counter()
        for sequence, (ids, drafter) in zip(sequences, drafts):
            scores = process(None, torch.from_numpy(sequence).to(copy=True, dtype=torch.float32))
            tokens, matches = _speculative_sampling(ids, drafter, DRAFTS, scores[None])
            assert tokens.shape[1] == matches + 1
            taken += int(matches)
        times.append((time.perf_counter() - begun) / (SEQUENCES * each) * 1e6)
    assert 0 < taken < PASSES * SEQUENCES * DRAFTS, "some drafts are taken, and some are not"
    return statistics.median(times)


@torch.inference_mode()
def time_beams(rows):
    times, scores = [], torch.zeros((64, 1))
    for _ in range(PASSES):
        begun = time.perf_counter()
        of_all = torch.log_softmax(torch.from_numpy(rows[:64]).float(), -1) + scores
        best, ids = torch.topk(of_all.flatten(), CONTINUATIONS)
        times.append((time.perf_counter() - begun) / 64 * 1e6)
        assert best[0] == of_all.max() and len(ids) == CONTINUATIONS
    return statistics.median(times)


def print_time(case, peer, version, microseconds):
    line = dict(case=case, peer=peer, version=version, threads=1, vocab_size=VOCAB_SIZE, cached=False)
    print(json.dumps(line | dict(us_per_row=round(microseconds, 1))), flush=True)


def print_logitd(binary, logits, case):
    version = subprocess.run([binary, "--version"], check=True, capture_output=True, text=True).stdout.split()[1]
    command = [binary, "bench", "--json", "--threads", "1", "--case", case, "--logits", logits]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    timed = [line for line in map(json.loads, out.splitlines()) if not line["cached"]]
    print_time(case, "logitd", version, timed[0]["us_per_row"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--logits", required=True, help="f16 rows, .npy")
    parser.add_argument("--logitd", help="the binary of logitd, timed beside it")
    args = parser.parse_args()
    torch.set_num_threads(1)
    real = np.load(args.logits, mmap_mode="r")[:, :VOCAB_SIZE]
    rows = np.concatenate([real] * (SEQUENCES * (DRAFTS + 1) // len(real) + 1))
    for case, (top_p, has_rows) in CASES.items():
        if args.logitd:
            print_logitd(args.logitd, args.logits, case)
        print_time(case, "transformers", transformers.__version__, time_verify(rows, top_p, has_rows))
    if args.logitd:
        print_logitd(args.logitd, args.logits, "beam_step")
    print_time("beam_step", "transformers", transformers.__version__, time_beams(rows))


if __name__ == "__main__":
    main()
