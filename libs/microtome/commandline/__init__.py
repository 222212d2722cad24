"""The command line for users: `microtome submit slide.svs --watch` and what follows.

Promises: everything goes through the API, as the user that is named. Refuses: to know where a server keeps anything.
"""
