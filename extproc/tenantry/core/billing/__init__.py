"""From usage to money: pure functions over what a ledger has summed.

`compute_units` weighs tokens, `money` rounds so that lines add up, `ownership` says who pays for an attempt,
`tallies` is the form of a ledger's sums, `statement` and `invoice` are what people read.
"""
