"""One table of what run.sh has measured, and summary.json: summary.py FOLDER-OF-RESULTS STEPS.jsonl

Exits with 1 if a step has failed, any bits differ, or a server has not answered."""

import json
import sys
from pathlib import Path

# Microseconds for rows of 128,256 f16 logits, each with its own k, p and seed: kernels/README.md, "Predicted time".
TARGETS = {1: 15.0, 64: 15.0, 256: 45.0}


def lines(path):
    found = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            pass
    return found


def is_left_out(step):
    return str(step["rc"]).startswith("left out")


def print_bench(bench):
    print("== bench: case, vocabulary, rows, team: kernel us (in L2; adjusting, cutting, inspecting; with transfers), GB/s, ratio to copy")
    for b in bench:
        goal = TARGETS.get(b["rows"]) if b["case"] == "top_k_top_p" and b["vocab_size"] == 128256 else None
        verdict = "" if goal is None else f"   goal {goal:.0f}: {'met' if b['kernel_us'] <= goal else 'MISSED'}"
        print(f"{b['case']:20} {b['vocab_size']:>7} {b['rows']:>4} {b['team_blocks']}: {b['kernel_us']:8.1f} "
              f"({b['kernel_cached_us']:.1f}; {b['adjust_us']:.1f}, {b['cut_us']:.1f}, {b['inspect_us']:.1f}; {b['uploaded_us']:.1f}) {b['read_gb_per_s']:7.0f} {b['ratio']:6.2f}{verdict}")


def print_peers(peers):
    print("== peers: rows, way, us")
    for p in peers:
        print(f"{p['rows']:>4} {p['way']:50} {p['us']:9.1f}")


def by_case(sweep):
    groups = {}
    for s in sweep:
        if "kernel_us" in s:
            groups.setdefault((s["case"], s["rows"]), []).append(s)
    return dict(sorted(groups.items()))


def fastest(shapes):
    return min(shapes, key=lambda s: s["kernel_us"])


def print_sweep(groups):
    print("== sweep: the planned shape of each, and the fastest")
    for (case, rows), shapes in groups.items():
        best = fastest(shapes)
        planned = next((s for s in shapes if s["planned"]), None)
        if planned:
            print(f"{case:9} {rows:>4}: planned {planned['kernel_us']:7.1f} us (team {planned['team_blocks']}, "
                  f"staged {planned['stage_bytes']}), whole call {planned['call_us']:.0f}; best {best['kernel_us']:7.1f} "
                  f"({best['kernel'].split()[-1]}, team {best['team_blocks']}, staged {best['stage_bytes']})")


def load_table(load):
    for report in load:
        for run in report.get("runs", []):
            requests, service = report["requests"], run["service"]
            yield {"plane": requests["plane"], "rpc": requests["rpc"],
                   "target": report["targets"][0]["target"].split(":")[0], "what": requests["what"],
                   "devices": run["devices"], "answered": run["answered"], "errors": run["errors"],
                   "rows_per_s": run["rows_per_s"], "gb_per_s": run["gb_per_s"], "p50_us": service["p50_us"],
                   "p99_us": service["p99_us"], "server": run["server"],
                   "rows_wrong": (report.get("check") or {}).get("rows_wrong")}


def print_load(table):
    print("== load: way, rows a request, rows a second, GB/s, response us")
    for row in table:
        print(f"{row['target']:5} {row['plane']:8} {row['rpc']:7} {row['what'].split(',')[0]:9} {row['rows_per_s']:10.0f} rows/s "
              f"{row['gb_per_s']:6.2f} GB/s  p50 {row['p50_us']:8.0f}  p99 {row['p99_us']:8.0f}  wrong {row['rows_wrong']}")


def main():
    out = Path(sys.argv[1])
    steps = lines(Path(sys.argv[2]))
    bench, peers, sweep, load = (lines(out / f"{n}.jsonl") for n in ("bench", "peers", "sweep", "load"))
    table, groups = list(load_table(load)), by_case(sweep)
    failed = [s for s in steps if s["rc"] != 0 and not is_left_out(s)]
    left_out = [s for s in steps if is_left_out(s)]
    wrong = [s for s in sweep if "wrong_row" in s] + [row for row in table if row["rows_wrong"]]
    unanswered = [f"{row['target']} {row['plane']} {row['rpc']}" for row in table if row["errors"] or not row["answered"]]
    differs = (out / "difference.tgz").exists()
    verified = sum(1 for s in steps if s["step"].startswith("verify-") and s["rc"] == 0)

    print("\n== steps that failed:", ", ".join(f"{s['step']} ({s['rc']})" for s in failed) or "none")
    print("== steps left out:", ", ".join(f"{s['step']} ({s['rc'].removeprefix('left out: ')})" for s in left_out) or "none")
    print("== other bits:", wrong or "none in sweep and load;", "difference.tgz has some;" if differs else "none kept;",
          f"{verified} runs of verify passed")
    if unanswered:
        print("== load with errors, or without answers:", ", ".join(unanswered))
    print_bench(bench)
    print_peers(peers)
    print_sweep(groups)
    print_load(table)
    (out / "summary.json").write_text(json.dumps(
        {"steps": steps, "failed": failed, "left_out": left_out, "wrong": wrong, "bench": bench, "peers": peers,
         "load": table, "sweep_best": {f"{c}/{r}": fastest(s) for (c, r), s in groups.items()}}, indent=1))
    sys.exit(1 if failed or wrong or differs or unanswered else 0)


main()
