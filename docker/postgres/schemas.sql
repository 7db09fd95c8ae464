-- Run once, when the volume is new: schemas that libraries make tables in and do not make themselves.
CREATE SCHEMA IF NOT EXISTS mlflow;
CREATE SCHEMA IF NOT EXISTS feast_registry;
