"""Real servers on this machine for an environment that has some: PostgreSQL, Redis and MLflow.

They come as Python wheels, so neither Docker nor root is needed. Each has a folder below
`State.services` with its data, its configuration and its log. `lifecycle` starts and stops them,
`answers` asks them whether they are there, `command` is the verb of the command line.
"""
