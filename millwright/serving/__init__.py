"""The prediction service: features from the online store, a verified release, an answer by HTTP.

`command` is the verb, `server` the process, `app` its endpoints. `releases` says which ones answer,
`features` reads, `policy` decides, `scoring` predicts. Nothing here knows ZenML, MLflow or a
pipeline.
"""
