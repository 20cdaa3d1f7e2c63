"""The bucket: a small port in our own words, an adapter for S3, and what stands between them (`stack`)."""
