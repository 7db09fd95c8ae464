"""Which of Feast's tests do not pass for which of our stores, and why."""

CLI = "it reads with Feast's file store, and removes what was saved as a folder of this machine"
EXACT = "three right rows, but it compares Float32 features with 0.1 in double precision"
STORAGE = "SavedDatasetStorage.from_data_source of Feast does not know PostgreSQLSource"
QUERY = "rows are written into tables, not into queries"

REASONS: dict[tuple[str, str], str] = {
    ("AsofFile", "test_non_entity_mode_preserves_multiple_timestamps"): EXACT,
    ("AsofFolder", "test_non_entity_mode_preserves_multiple_timestamps"): EXACT,
    ("AsofS3", "test_non_entity_mode_preserves_multiple_timestamps"): EXACT,
    ("AsofS3", "test_e2e_validation_via_cli"): CLI,
    ("AsofPostgres", "test_e2e_validation_via_cli"): CLI,
    ("AsofPostgres", "test_persist_does_not_overwrite"): STORAGE,
    ("AsofPostgresQuery", "test_e2e_validation_via_cli"): CLI,
    ("AsofPostgresQuery", "test_persist_does_not_overwrite"): STORAGE,
    ("AsofPostgresQuery", "test_non_entity_mode_preserves_multiple_timestamps"): QUERY,
    ("AsofPostgresQuery", "test_push_features_and_read"): QUERY,
    ("AsofPostgresQuery", "test_reorder_columns"): QUERY,
    ("AsofPostgresQuery", "test_writing_consecutively_to_offline_store"): QUERY,
}
