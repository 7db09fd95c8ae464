"""The prediction log: every answer of the service with what it was made from, and what came of it.

    journal/<segment>                  an answer is here before it goes out
        |  a thread writes them off the request's path, exactly once
        v
    parquet files, or tables of PostgreSQL      predictions, outcomes, losses, layouts

`records` are what is logged and `packing` their bytes, `journal` keeps these on disk, `log` is what
a service calls, `parquet_sink` and `postgres_sink` take whole segments. `history` reads it all
again, `outcomes` says which predictions came true, and `opening` knows which environment has what.
"""
