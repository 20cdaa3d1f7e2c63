"""The bucket: a small port in our own words, the S3 adapter behind it, request accounting."""
