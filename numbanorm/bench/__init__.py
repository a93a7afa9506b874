"""`python -m numbanorm bench`: numbanorm against a copy of the same bytes and against what people use, on this machine.

`cases` says what is measured, `truth` what should come out, `contenders`, `peers` and `arrays_only` who computes it, `workers`
keeps each in a process of its own, `measure` calls them in turn, `report` and `plot` show it, `command` is all of it in order.
It uses numbanorm as anyone may, and nothing of numbanorm uses it.
"""
