"""Whether a candidate version may go on: outcomes in, verdicts out.

`guard.py` decides and begins with the theory. `signals.py` says what is observed and what is tested, `betting.py` has
the bets, `budget.py` divides the false-alarm probability, `evidence.py` is what replicas exchange, `books.py` adds it
up, `visits.py` counts each sticky unit once, and `standing.py` is the table of states that a verdict acts on.
"""
