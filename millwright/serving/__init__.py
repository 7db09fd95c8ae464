"""The prediction service: features from the online store, a verified release, an answer by HTTP.

`command` is the verb, `server` the process, `app` its endpoints. `current` says which release
answers, `features` reads, `predictions` decides. Nothing here knows ZenML, MLflow or a pipeline.
"""
