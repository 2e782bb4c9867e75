"""Whose is this GPU-nanosecond? An engine's steps are divided among the requests in them; nothing is left over.

`weights` says what a request's work in a step weighs and why that is fair, `calibration` learns the weights from the
step times themselves, `adapters` does both for steps with a LoRA adapter in them. `meter` keeps the accounts of an
engine (`account`: of one request, `spans`: of the engine as a whole, `repetition`: of an output that goes in circles)
and writes its usage records. All of it is pure: time comes as an argument, in whole nanoseconds of a clock that does
not run backwards. Both engines, vLLM and the stand-in, use it.
"""
