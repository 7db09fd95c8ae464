"""PostgreSQL as the place where features are computed and kept."""
