"""The command line for users: `microtome submit slide.svs --watch` and what follows, and what needs no server.

Promises: what goes to a server goes through the API, as the user that is named. Refuses: to know where a server keeps
anything.
"""
