"""Many images, one row each: shards in, parts out (Parquet, CSV, JSON lines), resumable, here or on a cluster."""
