"""What Verify and BeamStep cost beside Sample of the same rows, through a server.

    python benches/verify/rpc.py --logitd target/release/logitd > rpc.jsonl

Starts a server on Unix sockets and has `logitd load` send 320 rows a request, one request at a time: as rows of Sample, and as 64 sequences
of 4 drafts in each mode and with each kind of distribution; and 64 rows as 16 groups of 4 beams. Rows and parameters are the same. Every answer is checked
first, in a run by itself. Then short runs of all of them take turns, so that whatever else the machine does meets all of them alike. Prints one JSON object
a line: the medians over the rounds of a request's time as its caller sees it (`service_us`) and of the processor time that the server spent on it
(`server_cpu_us`), and of the ratios of both to those of Sample in the same round.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

SAMPLE = "sample"
# By name: the case that it is compared with, and the flags.
CASES = {
    SAMPLE: (SAMPLE, "--rows 320"),
    "verify_match": (SAMPLE, "--method verify --sequences 64 --drafts 4"),
    "verify_rejection": (SAMPLE, "--method verify --sequences 64 --drafts 4 --mode rejection"),
    "verify_rejection_sparse":
        (SAMPLE, "--method verify --sequences 64 --drafts 4 --mode rejection --distributions sparse"),
    "verify_typical": (SAMPLE, "--method verify --sequences 64 --drafts 4 --mode typical"),
    "sample_64": ("sample_64", "--rows 64"),
    "beam_step": ("sample_64", "--method beam-step --groups 16 --beams 4"),
}
PLANES = {"inline": "", "shm": "--plane shm"}


def load(binary, target, flags):
    command = [binary, "load", "--target", target, "--concurrency", "1", "--quiet", "--json", "--fail-on-errors",
               "--fail-on-refusals", *flags.split()]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{run.stdout}{run.stderr}")
    return json.loads(run.stdout)


def cpu_us(pid):
    """What the threads of a process have had of a processor."""
    threads = pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1000


def measured(binary, target, pid, flags):
    """A request's time, and the server's processor time for it, in microseconds."""
    before = cpu_us(pid)
    run = load(binary, target, flags)["runs"][0]
    spent = cpu_us(pid) - before
    return run["service"]["p50_us"], spent / run["requests"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--logitd", required=True, help="the binary")
    parser.add_argument("--vocab-size", type=int, default=32_000, help="tokens a row; default %(default)s")
    parser.add_argument("--rounds", type=int, default=9, help="default %(default)s")
    parser.add_argument("--requests", type=int, default=20, help="of each run; default %(default)s")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="logitd-") as folder:
        target = f"unix:{folder}/logitd.sock"
        server = subprocess.Popen([args.logitd, "serve", f"--listen={target}", f"--shm=unix:{folder}/shm.sock",
                                   "--message-bytes-max=256MiB"], stderr=subprocess.DEVNULL)
        try:
            while not pathlib.Path(f"{folder}/logitd.sock").exists():
                time.sleep(0.05)
            for plane, how in PLANES.items():
                compare(args, target, server.pid, plane, f"--vocab-size {args.vocab_size} {how}")
        finally:
            server.terminate()
            server.wait()


def compare(args, target, pid, plane, common):
    for _, flags in CASES.values():
        load(args.logitd, target, f"{common} {flags} --requests 2 --check 1 --check-with cpu")
    rounds = [{name: measured(args.logitd, target, pid, f"{common} {flags} --requests {args.requests}")
               for name, (_, flags) in CASES.items()} for _ in range(args.rounds)]
    for name, (beside, _) in CASES.items():
        service_us, server_cpu_us = [statistics.median(one[name][i] for one in rounds) for i in (0, 1)]
        ratios = [statistics.median(one[name][i] / one[beside][i] for one in rounds) for i in (0, 1)]
        print(json.dumps(dict(
            case=name, plane=plane, vocab_size=args.vocab_size, rounds=args.rounds, service_us=round(service_us),
            server_cpu_us=round(server_cpu_us), beside=beside, service_ratio=round(ratios[0], 3),
            server_cpu_ratio=round(ratios[1], 3))), flush=True)


if __name__ == "__main__":
    main()
