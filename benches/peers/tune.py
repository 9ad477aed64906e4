#!/usr/bin/env python3
"""A sweep of `logitd tune` beside Optuna's TPE, which draws a sample of every row for each setting that it tries.

    pip install the wheel of python/, optuna
    python benches/peers/tune.py --logitd target/release/logitd

Both work on the 64 positions that the program carries, without a limit on the tail, which a sample does not tell. TPE asks
`logitd.sample` for the log-probability of each row's next token under one setting at a time: what a server that only samples
can tell. Times are of the whole process for the sweep, and of the search alone for TPE.
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
import optuna

import logitd

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python" / "tests"))
import positions  # noqa: E402

STOPS = (10, 25, 50, 100)


def sweep(binary: str) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [binary, "tune", "--goal", "nll", "--search", "grid", "--json"]
        done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    best = json.loads(done.stdout.splitlines()[0])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"name": "logitd tune, 35,280 settings", "nll": best["nll"], "wall_s": wall, "cpu_s": cpu}


def tpe(seed: int) -> list[dict]:
    carried = positions.carried()
    logits, targets = carried.logits, carried.references
    miss = float(np.log(logits.shape[1]))
    asked = [logitd.Logprobs("sampled", ids=[int(target)]) for target in targets]

    def nll(trial: optuna.Trial) -> float:
        setting = {
            "temperature": trial.suggest_float("temperature", 0.3, 2.0),
            "top_k": trial.suggest_int("top_k", 5, 2000, log=True),
            "top_p": trial.suggest_float("top_p", 0.5, 1.0),
            "min_p": trial.suggest_float("min_p", 0.0, 0.3),
        }
        logprobs = logitd.sample(logits, seed=1, logprobs=asked, **setting).sampled.id_logprobs
        return float(np.where(np.isfinite(logprobs), -logprobs, miss).mean())

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    began, cpu, said = time.perf_counter(), time.process_time(), []
    for stop in STOPS:
        study.optimize(nll, n_trials=stop - len(study.trials))
        said.append({"name": f"TPE over sample, {stop} trials", "nll": study.best_value,
                     "wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu})
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logitd", default="logitd", help="the binary (default: the one on the PATH)")
    parser.add_argument("--seed", type=int, default=0, help="of TPE (default 0)")
    parser.add_argument("--json", action="store_true", help="print a line of JSON each")
    args = parser.parse_args()
    for found in [sweep(args.logitd), *tpe(args.seed)]:
        if args.json:
            print(json.dumps(found))
        else:
            print(f"{found['name']:<32} nll {found['nll']:.4f}  {found['wall_s']:7.2f} s  {found['cpu_s']:7.2f} s of CPU")


if __name__ == "__main__":
    main()
