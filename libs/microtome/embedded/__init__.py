"""The embedded stack: NATS, Postgres and the services as processes of one workstation.

Promises: real servers with the real protocols, bound to 127.0.0.1, kept alive while the
supervisor lives and gone when it is gone.
Refuses: to be a production deployment of more than one host; `docker-compose.yml` is for that.
"""
