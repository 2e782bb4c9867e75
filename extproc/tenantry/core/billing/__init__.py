"""From usage to money: pure functions over what a ledger has summed.

`compute_units` weighs tokens and `profile` says what a model's weigh, `money` rounds so that lines add up, `ownership`
says who pays for an attempt, `cold_starts` who pays for an engine's start, `tallies` is the form of a ledger's sums,
`booking` and `periods` how it comes to them. `statement`, `invoice` and `operator` are what people read, `spans` what
they ask for, `notes` what they may have overlooked in the rules.
"""
