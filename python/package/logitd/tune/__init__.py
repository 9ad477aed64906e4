"""Finding parameters by experiments that generate and score: Optuna over any command, or in a loop of one's own.

    python -m logitd.tune --command './eval.sh' --minimize loss --trials 100

runs `./eval.sh` with settings that Optuna suggests; `--help` has the rest. Who has a loop already takes `suggest`:

    def objective(trial: optuna.Trial) -> float:
        return score(generate(**logitd.tune.suggest(trial)))

Where the text is known, and only the next token is judged, `logitd tune` and `logitd.evaluate` measure every setting
exactly, without a search. `pip install 'logitd[tune]'` brings Optuna; `suggest` and `metrics` do without.
"""

from . import metrics
from .space import suggest

__all__ = ["metrics", "suggest"]
