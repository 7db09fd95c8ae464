"""API keys of the prediction service: who may ask it, and who may change what it serves.

`key` says what one is, `book` which there are and what may be done to them, `file` keeps them, and
`command` is the verb. The service follows the file in `serving/keys.py`.
"""
