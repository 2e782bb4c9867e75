"""Whether a candidate version may go on: outcomes in, verdicts out.

`guard.py` decides and begins with the theory; `verdicts.py` has what it is told and what it says. `signals.py` says
what is observed and what is tested, `betting.py` has the bets, `budget.py` divides the false-alarm probability,
`evidence.py` is what replicas exchange, `books.py` adds it up, `visits.py` counts each sticky unit once, and
`health.py` tells whether there is a version to go back to.

Around the guard: `trial.py` is what a request is to a rollout, `join.py` makes one observation of what is told of it,
`standing.py` is the table of states that a verdict acts on, `shared.py` what replicas and restarts keep, and
`conduct.py` puts all of it together for one rollout in one process. `lone.py` is a guard without a store.
"""
