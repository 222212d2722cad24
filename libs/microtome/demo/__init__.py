"""The demo: one slide through the whole pipeline on this machine.

Promises: it uses the public API only; it says which slide it took and why.
Refuses: to show results that this run's server did not give.
"""
